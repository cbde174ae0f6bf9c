"""A run on disk: its folder, its checkpoints, and the folders that hold a model alone."""
