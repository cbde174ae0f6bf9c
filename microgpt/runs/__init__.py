"""Runs on disk: run folders, checkpoints, model folders, manifests, tensor files."""
