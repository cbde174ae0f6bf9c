"""What the tests of compiled functions share: arrays of random numbers, their addresses, and their layout in panels."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from microgpt.engines.fused.jit.functions import builder
from microgpt.engines.fused.plan import PAIR
from microgpt.engines.fused.simd.intrinsics import BYTES

DTYPES = ["float32", "float64"]
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}


@builder
def pointer(typing: Any, array: Any) -> Any:
    """The address of a contiguous array's first number, in compiled code. The caller keeps the array alive."""

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return context.make_array(sig.args[0])(context, b, args[0]).data

    return types.CPointer(array.dtype)(array), emit


def lanes_of(dtype: str) -> int:
    """Numbers per vector."""
    return BYTES // np.dtype(dtype).itemsize


def random(*shape: int, dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def in_panels(x: np.ndarray) -> np.ndarray:
    """x as its panels lie in memory."""
    wide = PAIR * lanes_of(str(x.dtype))
    return np.concatenate([x[:, j : j + wide].ravel() for j in range(0, x.shape[1], wide)])
