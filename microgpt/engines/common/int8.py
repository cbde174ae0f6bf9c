"""Weights in eight bits: each row of a matrix as integers times one float32 scale, its largest magnitude / 127."""

from __future__ import annotations

import numpy as np


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as int8 (R, C), -127 to 127, and float32 scales (R, 1); 1 for a row of zeros."""
    top = np.abs(values).max(axis=1, keepdims=True)
    scale = np.where(top > 0, top / 127, 1).astype(np.float32)
    return np.rint(values / scale).clip(-127, 127).astype(np.int8), scale


def rounded(values: np.ndarray) -> np.ndarray:
    """A matrix after it was quantised, in float32."""
    whole, scale = quantised(values)
    return whole * scale
