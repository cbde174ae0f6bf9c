"""Attention of one new token in each of several sequences, as in decoding. Legend: layout.py.

A sequence is a lane in norm and rotation, where there are more than a few; its scores and mix are computed alone,
with its keys in the lanes. So it has the same bits whatever the others are.
"""

from __future__ import annotations

import math

from microgpt.engines.fused.attention import norm_head, rotate
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import FOUR, Cache, P, Shape
from microgpt.engines.fused.simd.exp import LOG2E, exp2
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import transpose, transpose_back, zero
from microgpt.engines.fused.simd.vectors import (
    first,
    fma,
    lanes,
    largest,
    load,
    maximum,
    prefetch_line,
    splat,
    store,
    total,
)

FEW_ROWS = 4  # rows for which transposing into whole vectors costs more than it saves


@jit
def attention_one(
    q: P, k: P, v: P, ld: int, block: int, y: P, p: P, size: int, S: int, next_head: int
) -> None:  # fmt: skip
    """One head: y = softmax(q k^T / sqrt(size)) v of a single query that sees all of S keys; see Cache.

    q, y (size); p is a workspace for the scores. The next one, `next_head` numbers on, is prefetched.
    """
    noinline()
    scale = LOG2E / math.sqrt(size)
    W = lanes(q)
    high, none = splat(q, -math.inf), splat(q, 0.0)
    for s in range(0, S, W):
        keys, score = k + s // W * block, none
        for i in range(size):
            prefetch_line(keys, i * ld + next_head)
            score = fma(splat(q, q[i]), load(keys, i * ld), score)
        score = first(S - s, score, -math.inf)
        store(p, s, score)
        high = maximum(high, score)
    top = largest(high)
    sums = none
    for s in range(0, S, W):
        e = first(S - s, exp2((load(p, s) - top) * scale), 0.0)
        store(p, s, e)
        sums = sums + e
    inverse = 1.0 / total(sums)
    whole = size // FOUR * FOUR
    for i in range(0, whole, FOUR):  # four independent sums hide the latency of an addition
        values, a, b, c, d = v + i * ld, none, none, none, none
        for s in range(0, S, W):
            e = load(p, s)
            for j in range(FOUR):
                prefetch_line(values, j * ld + next_head)
            a = fma(e, first(S - s, load(values, 0), 0.0), a)
            b = fma(e, first(S - s, load(values, ld), 0.0), b)
            c = fma(e, first(S - s, load(values, 2 * ld), 0.0), c)
            d = fma(e, first(S - s, load(values, 3 * ld), 0.0), d)
            values = values + block
        y[i], y[i + 1] = total(a) * inverse, total(b) * inverse
        y[i + 2], y[i + 3] = total(c) * inverse, total(d) * inverse
    for i in range(whole, size):
        mixed = none
        for s in range(0, S, W):
            mixed = fma(load(p, s), first(S - s, load(v, i * ld + s // W * block), 0.0), mixed)
        y[i] = total(mixed) * inverse


@inline
def turns(c: Shape, cache: Cache, x: P, cos: P, sin: P, ldr: int, n: int, ld: int) -> None:
    """x (size, ld) = RoPE's cosines and sines of the next position of each of n rows."""
    half = c.size // 2
    zero(x, c.size * ld)
    for row in range(n):
        for i in range(half):
            at = i * ldr + cache.past[row]
            x[i * ld + row], x[(half + i) * ld + row] = cos[at], sin[at]


@jit
def rotate_row(c: Shape, x: P, turns: P, ld: int) -> None:
    """`rotate` of all heads of the queries and keys x (2 D) of one row, which is column 0 of turns (size, ld)."""
    noinline()
    pairs = c.size // 2
    for head in range(2 * c.H):
        y = x + (head * c.size + (c.Dp - c.D if head >= c.H else 0))
        for i in range(pairs):
            a, b = (i, i + pairs) if c.half else (2 * i, 2 * i + 1)
            ya, yb, cos, sin = y[a], y[b], turns[i * ld], turns[(pairs + i) * ld]
            y[a], y[b] = ya * cos - yb * sin, ya * sin + yb * cos


@inline
def attend_each(c: Shape, qkv: P, heads: P, ld: int, cache: Cache, rq: P, mix: P, turns: P, p: P, n: int) -> None:
    """All heads of n rows of one token: qkv (n, Qs) -> mix (n, Ds); ld is n in whole vectors."""
    D, W = c.Dp, lanes(qkv)
    if c.rope and not c.qk_norm and n <= FEW_ROWS:
        for row in range(n):
            rotate_row(c, qkv + row * c.Qs, turns + row, ld)
    elif c.rope or c.qk_norm:
        transpose(qkv, c.Qs, heads, ld, n, 2 * D)  # queries and keys
        for head in range(2 * c.H):
            x = heads + (head * c.size + (D - c.D if head >= c.H else 0)) * ld
            if c.rope:
                rotate(c.half, c.size, x, ld, turns, turns + c.size // 2 * ld, ld, n)
            if c.qk_norm:
                norm_head(x, ld, rq, c.size, n)
        transpose_back(heads, ld, qkv, c.Qs, n, 2 * D)
    for row in range(n):
        q, y, past = qkv + row * c.Qs, mix + row * c.Ds, cache.past[row]
        keys, values = cache.k + cache.starts[row], cache.v + cache.starts[row]
        newest = past // W * cache.block + past % W
        for head in range(c.H):
            at, to, next_head = head * c.size, head * c.size * cache.width, c.size * cache.width
            if head + 1 == c.H:
                next_head = cache.starts[min(row + 1, n - 1)] - cache.starts[row] - to
            for i in range(c.size):
                spot = to + newest + i * cache.ld
                keys[spot], values[spot] = q[D + at + i], q[2 * D + at + i]
            attention_one(
                q + at, keys + to, values + to, cache.ld, cache.block, y + at, p, c.size, past + 1, next_head
            )  # fmt: skip
        for i in range(c.D, D):
            y[i] = 0.0
