"""Weights and moments as the engine keeps them: flat vectors of padded matrices in panels; see simd/matmul.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from microgpt.engines.common.int8 import quantised
from microgpt.engines.fused.layout import SCALE_ROWS, Shape
from microgpt.engines.fused.plan import PAIR

PARTS = (("w", ""), ("m", "m."), ("v", "v."))  # of a state, and how their tensors' names begin


class Place(NamedTuple):
    """The place of a tensor in a flat vector: rows `first` to first + rows of the matrix (height, width) at `at`."""

    at: int
    height: int
    first: int
    rows: int
    columns: int
    width: int
    wide: int  # columns per panel


class State:
    """Weights (out, in) and moments, each one flat vector of padded matrices in panels; see simd/matmul.py."""

    def __init__(self, n: int, where: dict[str, Place], dtype: str) -> None:
        self.where = where
        self.flat = {part: empty(n, dtype) for part, _ in PARTS}
        self.w, self.m, self.v = (at(part) for part in self.flat.values())
        self.arranged: dict[str, np.ndarray] = {}  # the weights for generation, made once after each change

    def parts(self, part: str, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """A matrix of a flat vector without its padding: pairs of columns and the view (rows, those columns)."""
        at, height, first, rows, columns, width, wide = self.where[name]
        for j, panel in panels(self.flat[part][at:], height, width, wide):
            end = min(columns, j + wide)
            yield slice(j, end), panel[first : first + rows, : end - j]


def panels(matrix: np.ndarray, rows: int, columns: int, wide: int) -> Iterator[tuple[int, np.ndarray]]:
    """The panels of a flat (rows, columns) matrix: the first column of each, and its view (rows, width)."""
    for j in range(0, columns, wide):
        width = min(wide, columns - j)
        yield j, matrix[j * rows : j * rows + rows * width].reshape(rows, width)


def matrices(c: Shape) -> Iterator[tuple[int, int, int]]:
    """The offset, rows and columns of each matrix; those of queries, keys and values are one."""
    D, F = c.Dp, c.Fp
    yield from ((at, c.Vp, D) for at in sorted({c.wte, c.head}))
    if c.learned:
        yield c.wpe, c.block, D
    for i in range(c.layers):
        at = c.layer + i * c.step
        yield from ((at, 3 * D, D), (at + c.wo, D, D), (at + c.fc1, F, D), (at + c.fc2, D, F))


# Generation reads the weights often, so they are transposed once; in NumPy, which needs no compiling.


def arranged(c: Shape, w: np.ndarray, W: int, how: str) -> np.ndarray:
    """w for generation: "transposed", or in "bf16_pairs", or in "int8"."""
    return in_int8(c, w, W) if how == "int8" else transposed(c, w, W, how == "bf16_pairs")


def in_int8(c: Shape, w: np.ndarray, W: int) -> np.ndarray:
    """Every matrix (out, in) as pairs of int8s (in / 2, out) with their scales; see simd/int8.py."""
    wide, wt = PAIR * W, empty(c.n // 2 + c.n // W * SCALE_ROWS, np.int16)
    for at, fan_out, fan_in in matrices(c):
        rows = np.concatenate([part for _, part in panels(w[at:], fan_out, fan_in, wide)], axis=1)
        whole, scale = quantised(rows)
        begin, half, pairs = at // 2 + at // W * SCALE_ROWS, fan_in // 2, whole.view(np.int16)
        for i, place in panels(wt[begin:], half + SCALE_ROWS, fan_out, wide):
            width = place.shape[1]
            place[:half] = pairs[i : i + width].T
            place[half:] = scale[i : i + width].reshape(-1).view(np.int16).reshape(SCALE_ROWS, width)
    return wt


def transposed(c: Shape, w: np.ndarray, W: int, bf16_pairs: bool) -> np.ndarray:
    """w with every matrix (out, in) as (in, out), or as (in / 2, out) pairs of bfloat16s, at the same offset."""
    wide, wt = PAIR * W, empty(c.n, w.dtype)
    for at, fan_out, fan_in in matrices(c):
        for j, part in panels(w[at:], fan_out, fan_in, wide):
            for i, place in panels(wt[at:], fan_in // (1 + bf16_pairs), fan_out, wide):
                block = part[i : i + place.shape[1]].T
                if bf16_pairs:
                    place[j // 2 : (j + len(block)) // 2] = pair_rows(block)
                else:
                    place[j : j + len(block)] = block
    return wt


def pair_rows(x: np.ndarray) -> np.ndarray:
    """Pairs of neighbours in the columns of x (rows, columns), each rounded to the nearest bfloat16."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1)
    return (bits[::2] >> 16 | bits[1::2] & 0xFFFF0000).view(np.float32)


def empty(n: int, dtype: Any) -> np.ndarray:
    """n zeros, aligned to a cache line."""
    raw = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n * np.dtype(dtype).itemsize].view(dtype)


def at(array: np.ndarray) -> int:
    """The address of a contiguous array's first number. The caller keeps the array alive."""
    address: int = array.__array_interface__["data"][0]
    return address
