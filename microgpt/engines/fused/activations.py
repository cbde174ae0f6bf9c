"""Activations, forward and backward."""

from __future__ import annotations

import math
from typing import Any

from microgpt.engines.fused.jit.functions import jit
from microgpt.engines.fused.layout import P
from microgpt.engines.fused.simd.exp import LOG2E, exp, exp2
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.vectors import fma, lanes, load, maximum, positive, splat, store

GELU = math.sqrt(2 / math.pi)
POWER = -2.0 * GELU * LOG2E


@jit
def activate(kind: int, x: P, y: P, n: int) -> None:
    """ReLU, its square, or GELU in its tanh form, v (1 + tanh u) / 2 = v / (1 + 2^(-2 u log2 e))."""
    noinline()
    if kind == 0:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(y, i, positive(v, v))
    elif kind == 1:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(y, i, positive(v, v * v))
    else:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(y, i, v / (1.0 + exp2(v * fma(v * v, POWER * 0.044715, splat(x, POWER)))))


@jit
def activate_back(kind: int, dy: P, x: P, y: P, n: int) -> None:
    """dx, in place of dy, and y again, from the activation's input."""
    noinline()
    if kind == 0:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(y, i, positive(v, v))
            store(dy, i, positive(v, load(dy, i)))
    elif kind == 1:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(y, i, positive(v, v * v))
            store(dy, i, positive(v, 2.0 * v * load(dy, i)))
    else:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            square = v * v
            du = fma(square, 2.0 * GELU * 3 * 0.044715, splat(x, 2.0 * GELU))
            s = 1.0 / (1.0 + exp2(v * fma(square, POWER * 0.044715, splat(x, POWER))))
            z = v * s
            store(y, i, z)
            store(dy, i, load(dy, i) * fma(fma(z, s * -1.0, z), du, s))


@jit
def softcap(z: Any, cap: float) -> Any:
    """cap tanh(z / cap) (Gemma Team 2024, arXiv:2408.00118).

    For |z / cap| below a half Lambert's continued fraction, since 1 - 2 / (1 + e^2y) would cancel there.
    """
    noinline()
    y = z * (1.0 / cap)
    s = y * y
    near = y * fma(s, fma(s, s + 378.0, 17325.0), 135135.0)
    near = near / fma(s, fma(s, fma(s, 28.0, 3150.0), 62370.0), 135135.0)
    far, inside = 1.0 - 2.0 / (1.0 + exp(y * 2.0)), 0.5 - maximum(y, y * -1.0)
    return (positive(inside, near) + (far - positive(inside, far))) * cap
