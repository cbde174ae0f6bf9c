"""A run from its configuration to its end: prepared, trained, resumed, reported, measured."""
