"""Activations, forth and back."""

from __future__ import annotations

import math

from microgpt.engines.fused.building import jit, once
from microgpt.engines.fused.exponential import LOG2E, exp2
from microgpt.engines.fused.memory import P
from microgpt.engines.fused.vectors import fma, lanes, load, positive, splat, store

GELU = math.sqrt(2 / math.pi)
POWER = -2.0 * GELU * LOG2E


@jit
def activate(kind: int, x: P, y: P, n: int) -> None:
    """ReLU, its square, or GELU in its tanh form, v (1 + tanh u) / 2 = v / (1 + 2^(-2 u log2 e))."""
    once()
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
    """dx, in place of dy, and y once more, from the activation's input."""
    once()
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
