"""Shared by several engines: RoPE tables, masks, lists and tuples of numbers, compilation and the hardware."""
