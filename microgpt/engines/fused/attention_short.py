"""Attention of a row of at most W positions, with heads so small that several fit in a vector. Legend: layout.py.

Channels are in the lanes: transposing, as attention.py does, does not pay for so few positions.
"""

from __future__ import annotations

import math

from microgpt.engines.fused.jit.functions import jit
from microgpt.engines.fused.layout import P
from microgpt.engines.fused.simd.exp import LOG2E, exp2
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import copy, stride
from microgpt.engines.fused.simd.vectors import fma, group_sum, lanes, load, maximum, splat, store


@jit
def attention(size: int, D: int, qkv: P, saved: P, pairs: P, y: P, T: int) -> None:
    """All heads of a row of few positions: qkv (T, Qs) -> y (T, Ds).

    Every lane of a head holds the head's score, so no sum leaves a head's lanes. `saved` keeps qkv, `pairs` the weights
    of every query and key (T (T + 1) / 2, Dp).
    """
    noinline()
    scale = 1.0 / math.sqrt(size)
    W = lanes(qkv)
    S, Q = stride(D, W), stride(3 * D, W)
    copy(qkv, saved, T * Q)
    for j in range(0, D, W):
        p = pairs + j
        for t in range(T):
            q = load(qkv, t * Q + j) * (scale * LOG2E)
            high = splat(qkv, -math.inf)
            for s in range(t + 1):
                score = group_sum(q * load(qkv, s * Q + D + j), size)
                store(p, s * D, score)
                high = maximum(high, score)
            sums, mixed = splat(qkv, 0.0), splat(qkv, 0.0)
            for s in range(t + 1):
                e = exp2(load(p, s * D) - high)
                store(p, s * D, e)
                sums = sums + e
                mixed = fma(e, load(qkv, s * Q + 2 * D + j), mixed)
            inverse = 1.0 / sums
            store(y, t * S + j, mixed * inverse)
            for s in range(t + 1):
                store(p, s * D, load(p, s * D) * inverse)
            p = p + (t + 1) * D


@jit
def attention_back(size: int, D: int, dy: P, saved: P, pairs: P, y: P, dqkv: P, T: int) -> None:
    """dqkv (T, Qs), given the gradient dy of y."""
    noinline()
    scale = 1.0 / math.sqrt(size)
    W = lanes(dy)
    S, Q = stride(D, W), stride(3 * D, W)
    for j in range(0, D, W):
        q, k, v = saved + j, saved + (D + j), saved + (2 * D + j)
        dq, dk, dv = dqkv + j, dqkv + (D + j), dqkv + (2 * D + j)
        p = pairs + j
        for t in range(T):
            at = t * Q
            dt, qt, dqt = load(dy, t * S + j), load(q, at), splat(dy, 0.0)
            store(dk, at, dqt)
            store(dv, at, dqt)
            delta = group_sum(dt * load(y, t * S + j), size)
            for n in range(t + 1):
                s, weight = n * Q, load(p, 0)
                ds = weight * (group_sum(dt * load(v, s), size) - delta) * scale
                dqt = fma(ds, load(k, s), dqt)
                store(dk, s, fma(ds, qt, load(dk, s)))
                store(dv, s, fma(weight, dt, load(dv, s)))
                p = p + D
            store(dq, at, dqt)
