"""Shared by several rungs: dropout masks, lists and tuples of numbers, and the machine below them."""
