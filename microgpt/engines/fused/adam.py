"""Adam, applied at once or deferred until the weights are next read. Legend: layout.py.

Where weights, gradients and moments do not fit in the cache, an update is deferred to the next step's first
micro-batch, which reads the weights anyway: each part of a matrix is updated just before it is transposed, and the
product of the part before it prefetches that part.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import Matrix, P
from microgpt.engines.fused.plan import PAIR
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import Prefetch, quarters
from microgpt.engines.fused.simd.vectors import fma, inverse, lanes, load, splat, sqrt, store, total


@jit
def squares(x: P, n: int) -> float:
    """The sum of x[:n]^2: of 4096 numbers at a time in the vector's dtype, of those sums in float64."""
    noinline()
    W = lanes(x)
    whole = 0.0
    for low in range(0, n, 4096):
        high = min(n, low + 4096)
        a, b, c, d = splat(x, 0.0), splat(x, 0.0), splat(x, 0.0), splat(x, 0.0)
        tail = high - (high - low) % (4 * W)
        for i in range(low, tail, 4 * W):
            a = fma(load(x, i), load(x, i), a)
            b = fma(load(x, i + W), load(x, i + W), b)
            c = fma(load(x, i + 2 * W), load(x, i + 2 * W), c)
            d = fma(load(x, i + 3 * W), load(x, i + 3 * W), d)
        for i in range(tail, high, W):
            a = fma(load(x, i), load(x, i), a)
        whole += total((a + b) + (c + d))
    return whole


class Update(NamedTuple):
    """The numbers of one step of Adam."""

    b1: float
    b2: float
    eps: float
    scale: float  # of the gradient, from clipping
    decay: float  # learning rate times weight decay
    rate: float  # learning rate / (1 - beta1^k)
    fix: float  # 1 / (1 - beta2^k)


@jit
def adam(u: Update, w: P, g: P, m: P, v: P, n: int) -> None:
    """microgpt.optim.adam of n weights, in place."""
    noinline()
    fix, eps = math.sqrt(u.fix), splat(w, u.eps)
    c1, c2 = (1.0 - u.b1) * u.scale, (1.0 - u.b2) * u.scale * u.scale
    for i in range(0, n, lanes(w)):
        d, x = load(g, i), load(w, i)
        mean = fma(load(m, i), u.b1, d * c1)
        square = fma(d * c2, d, load(v, i) * u.b2)
        store(m, i, mean)
        store(v, i, square)
        if u.decay > 0:
            x = fma(x, -u.decay, x)
        store(w, i, fma(mean * -u.rate, inverse(fma(sqrt(square), fix, eps)), x))


class Weights(NamedTuple):
    """All matrices, and the update that may be due."""

    w: P  # (out, in)
    wt: P  # (in, out)
    transposed: bool  # wt holds them
    keep: bool  # wt is to be filled
    due: bool
    u: Update
    g: P
    m: P
    v: P


@inline
def settled(w: P, wt: P, transposed: bool, keep: bool) -> Weights:
    """Weights without an update due."""
    return Weights(w, wt, transposed, keep, False, Update(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), w, w, w)


@inline
def part_of(near: int, fan_in: int, wide: int) -> int:
    """Rows of a matrix per part, when each is transposed into `fan_in` numbers or pairs of bfloat16s."""
    return max(wide, near // fan_in // wide * wide)


@jit
def update_rows(k: Weights, a: Matrix, o: int, count: int) -> None:
    """Update rows o .. o + count of a matrix, which are a piece of every panel."""
    noinline()
    wide = PAIR * lanes(k.w)
    for j in range(0, a.fan_in, wide):
        width = min(wide, a.fan_in - j)
        at = a.at + j * a.fan_out + o * width
        adam(k.u, k.w + at, k.g + at, k.m + at, k.v + at, count * width)


@jit
def prefetch_rows(k: Weights, a: Matrix, o: int, count: int, then: Matrix, first: int) -> Prefetch:
    """The memory of rows o .. o + count of a matrix or, behind its end, of the first rows of the next one.

    With an update due also their gradients and moments.
    """
    wide = PAIR * lanes(k.w)
    if o >= a.fan_out:
        a, o, count = then, 0, first
    at, panels, run, stride = a.at + o * wide, a.fan_in // wide, min(count, a.fan_out - o) * wide, a.fan_out * wide
    if k.due:
        return Prefetch(k.w + at, k.g + at, k.m + at, k.v + at, panels, run, stride)
    return quarters(k.w + at, panels, run, stride)
