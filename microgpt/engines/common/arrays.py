"""Arrays that the engines on arrays share: RoPE tables, causal masks and dropout masks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from microgpt.config import Model
from microgpt.engines.common.dropout import scales
from microgpt.feed import Feed, MicroBatch

Array = np.ndarray


def rope_angles(first: int, T: int, size: int, base: float) -> Array:
    """The angle (T, size / 2) by which RoPE turns each pair of channels at positions first .. first + T: position
    times base^(-2i / size) (Su et al. 2021, arXiv:2104.09864). float64."""
    return np.arange(first, first + T)[:, None] * base ** (-2 * np.arange(size // 2) / size)


@lru_cache(maxsize=8)
def rope_tables(first: int, T: int, size: int, base: float, pairs: str, dtype: str) -> tuple[Array, Array, Array]:
    """Cosines and signed sines (T, size) for positions first .. first + T, and each channel's partner (size,).

    The rotation of x (..., T, size) is x cos + x[..., partner] sin. `pairs` is half or interleaved.
    """
    angle = rope_angles(first, T, size, base)
    cos, sin = np.cos(angle), np.sin(angle)
    if pairs == "interleaved":
        cos, sin = np.repeat(cos, 2, axis=1), np.stack([-sin, sin], axis=2).reshape(T, size)
        partner = np.arange(size) ^ 1
    else:
        cos, sin = np.hstack([cos, cos]), np.hstack([-sin, sin])
        partner = np.roll(np.arange(size), size // 2)
    return cos.astype(dtype), sin.astype(dtype), partner


@lru_cache(maxsize=8)
def causal_mask(T: int, S: int, dtype: str) -> Array:
    """(T, S): minus infinity where key s lies after query t, else 0; the queries are the last T of S positions."""
    return np.triu(np.full((T, S), -np.inf, dtype=dtype), k=1 + S - T)


def dropout_masks(model: Model, feed: Feed, rows: MicroBatch, step: int, dtype: str) -> list[Array]:
    """The factors (N, D) of dropout (Srivastava et al. 2014) for each place; an empty list for a model without."""
    if not model.dropout:
        return []
    B, T = rows.inputs.shape
    return [
        np.concatenate(
            [scales(model.dropout, feed.seed, step, rows.first_row + b, place, T, model.n_embd) for b in range(B)]
        ).astype(dtype)
        for place in range(2 * model.n_layer + 1)
    ]
