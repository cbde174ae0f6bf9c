"""Dropout masks as a function of seed, step, row and place, so that every engine drops the same activations.

A counter-based generator: each number's index goes through an integer hash (the two-multiplication xorshift
"lowbias32" of C. Wellons, 2018), so that no state has to be kept, sent or resumed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

U32 = 0xFFFFFFFF


def mix(x: Any) -> Any:
    """Hash 32 bits to 32 bits: a Python int below 2**32, a uint64 array or an int64 tensor that holds such."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & U32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & U32
    return x ^ (x >> 16)


def key(seed: int, step: int, row: Any, place: Any) -> Any:
    """The hash of where a mask belongs: optimizer step, row within it, place 0 for the embedding,
    2 l + 1 and 2 l + 2 for the attention and the MLP of layer l. All but the seed may be int64 tensors."""
    k = seed & U32
    for part in (seed >> 32, step, row, place):
        k = mix((k + (part & U32) + 0x9E3779B9) & U32)
    return k


def threshold(rate: float) -> int:
    """Hashes below this are dropped."""
    return int(rate * 2**32)


def scales(rate: float, seed: int, step: int, row: int, place: int, T: int, D: int) -> np.ndarray:
    """The factors (T, D) of activations: 0 where dropped, 1 / (1 - rate) where kept."""
    index = np.arange(T * D, dtype=np.uint64).reshape(T, D)
    hashed = mix(index ^ np.uint64(key(int(seed), int(step), int(row), place)))
    return np.where(hashed < threshold(rate), 0.0, 1.0 / (1.0 - rate))
