"""Attention of one row, forward and backward. Legend: layout.py.

Positions are in the lanes: queries, keys and values are (D, ld), one column per position, so that softmax, rotation
and norm need no sums across lanes. Rows of few positions with small heads are computed by attention_short.py.
"""

from __future__ import annotations

import math

from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import QUERIES, Cache, P, Shape, Trace
from microgpt.engines.fused.plan import PAIR
from microgpt.engines.fused.simd.bfloat16 import depth, operand, rows
from microgpt.engines.fused.simd.exp import LOG2E, exp2
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import multiply, multiply_columns, transpose, transpose_back, zero
from microgpt.engines.fused.simd.vectors import (
    first,
    fma,
    lanes,
    load,
    maximum,
    prefetch_line,
    splat,
    sqrt,
    store,
)


@jit
def rotate(half: bool, size: int, x: P, ld: int, cos: P, sin: P, ldr: int, T: int) -> None:
    """RoPE on one head (size, T): rotate channel pairs by their position's angle; cos, sin (size / 2, T)."""
    noinline()
    pairs = size // 2
    for i in range(pairs):
        a = x + (i if half else 2 * i) * ld
        b = x + (i + pairs if half else 2 * i + 1) * ld
        for t in range(0, T, lanes(x)):
            va, vb, vcos, vsin = load(a, t), load(b, t), load(cos, i * ldr + t), load(sin, i * ldr + t)
            store(a, t, va * vcos - vb * vsin)
            store(b, t, va * vsin + vb * vcos)


@jit
def rotate_back(half: bool, size: int, dy: P, ld: int, cos: P, sin: P, ldr: int, T: int) -> None:
    """The derivative of rotate, in place of dy: the inverse rotation."""
    noinline()
    pairs = size // 2
    for i in range(pairs):
        a = dy + (i if half else 2 * i) * ld
        b = dy + (i + pairs if half else 2 * i + 1) * ld
        for t in range(0, T, lanes(dy)):
            va, vb, vcos, vsin = load(a, t), load(b, t), load(cos, i * ldr + t), load(sin, i * ldr + t)
            store(a, t, va * vcos + vb * vsin)
            store(b, t, vb * vcos - va * vsin)


@jit
def norm_head(x: P, ld: int, r: P, size: int, T: int) -> None:
    """RMSNorm of one head (size, T) over its channels, in place."""
    noinline()
    for t in range(0, T, lanes(x)):
        squares = splat(x, 0.0)
        for i in range(size):
            squares = fma(load(x, i * ld + t), load(x, i * ld + t), squares)
        scale = 1.0 / sqrt(squares / size + 1e-5)
        store(r, t, scale)
        for i in range(size):
            store(x, i * ld + t, load(x, i * ld + t) * scale)


@jit
def norm_head_back(dy: P, y: P, ld: int, r: P, size: int, T: int) -> None:
    """The derivative of norm_head, in place of dy."""
    noinline()
    for t in range(0, T, lanes(y)):
        dots = splat(y, 0.0)
        for i in range(size):
            dots = fma(load(dy, i * ld + t), load(y, i * ld + t), dots)
        mean, scale = dots / size, load(r, t)
        for i in range(size):
            store(dy, i * ld + t, (load(dy, i * ld + t) - load(y, i * ld + t) * mean) * scale)


@jit
def exponentiate(p: P, ld: int, scale: float, seen: int, S: int, maxima: P, inverse: P) -> None:
    """Replace scores p (S, ld) of one vector of queries by 2^(scale (score - maximum)); `inverse` is 1 / their sums.

    All of these queries see the keys up to `seen`; each sees one more than the one before it.
    """
    noinline()
    W = lanes(p)
    end = min(S, seen + W)
    high = load(p, 0)
    for s in range(1, seen + 1):
        high = maximum(high, load(p, s * ld))
    for s in range(seen + 1, end):
        high = maximum(high, first(s - seen, -math.inf, load(p, s * ld)))
    sums = splat(p, 0.0)
    for s in range(seen + 1):
        e = exp2((load(p, s * ld) - high) * scale)
        store(p, s * ld, e)
        sums = sums + e
    for s in range(seen + 1, end):
        e = first(s - seen, 0.0, exp2((load(p, s * ld) - high) * scale))
        store(p, s * ld, e)
        sums = sums + e
    for s in range(end, S):
        store(p, s * ld, splat(p, 0.0))
    store(maxima, 0, high)
    store(inverse, 0, 1.0 / sums)


@jit
def attention(
    q: P, ldq: int, k: P, v: P, ld: int, y: P, maxima: P, inverse: P, p: P, size: int, past: int, T: int, workspace: P
) -> None:  # fmt: skip
    """One head: y = softmax(q k^T / sqrt(size)) v, causal, for T queries after `past` positions.

    q, y (size, ldq); k, v (size, ld). p is a workspace for the scores of two vectors of queries, `workspace` one for
    operands in pairs of bfloat16s. The backward pass computes the weights again from scores s, as
    2^(scale (s - maxima)) inverse.
    """
    noinline()
    scale = LOG2E / math.sqrt(size)
    W, K, L = lanes(q), depth(size, workspace), depth(ld, workspace)
    keys, queries = operand(k, ld, size, past + T, workspace), operand(q, ldq, size, T, workspace + K * ld)
    left = workspace + K * (ld + ldq)
    values, right = rows(v, ld, size, past + T, left), left + size * L
    for t in range(0, T, PAIR * W):
        width = PAIR * W if T - t > W else W
        S = min(past + T, past + t + width)
        multiply_columns(keys, ld, queries + t, ldq, p, width, S, K, width, False)
        for j in range(0, width, W):
            exponentiate(p + j, width, scale, past + t + j, S, maxima + (t + j), inverse + (t + j))
        weights = operand(p, width, S, width, right)
        multiply(values, L, weights, width, y + t, ldq, size, depth(S, workspace), width, False)
        for j in range(t, t + width, W):
            sums = load(inverse, j)
            for i in range(size):
                store(y, i * ldq + j, load(y, i * ldq + j) * sums)


@jit
def softmax_back(
    p: P, ds: P, ld: int, scale: float, before: int, M: int, maxima: P, inverse: P, delta: P, prefetch: P, part: int
) -> None:
    """Replace scores p (M, ld) of one vector of keys by weights, and the weights' gradients ds by those of the scores.

    Each row is a query. Row 0 sees `before` of these keys and the next one, each row one more than the one before it.
    Prefetches one cache line per row of four matrices that are `part` numbers from each other.
    """
    noinline()
    W = lanes(p)
    for t in range(max(0, -before)):
        store(p, t * ld, splat(p, 0.0))
        store(ds, t * ld, splat(p, 0.0))
    whole = max(0, W - before - 1)
    for t in range(max(0, -before), min(M, whole)):
        e = exp2((load(p, t * ld) - maxima[t]) * (scale * LOG2E)) * inverse[t]
        d = e * (load(ds, t * ld) - delta[t]) * scale
        store(p, t * ld, first(before + t + 1, e, 0.0))
        store(ds, t * ld, first(before + t + 1, d, 0.0))
    for t in range(whole, M):
        for i in range(4):
            prefetch_line(prefetch, t * W + i * part)
        e = exp2((load(p, t * ld) - maxima[t]) * (scale * LOG2E)) * inverse[t]
        store(p, t * ld, e)
        store(ds, t * ld, e * (load(ds, t * ld) - delta[t]) * scale)


@jit
def attention_back(
    dy: P, q: P, k: P, v: P, y: P, ld: int, maxima: P, inverse: P, p: P, ds: P, dq: P, dk: P, dv: P, size: int, T: int,
    workspace: P, stride: int,
) -> None:  # fmt: skip
    """dq, dk, dv (size, ld) of one head. The weights p are computed again, so that memory is linear in T.

    Keys are in the lanes, two vectors of them and QUERIES rows at a time, so that p and ds stay in the level 1 cache;
    ds is then transposed, queries into the lanes, for dq. The workspace `ds` continues with the transposed block and a
    number per position. q, k, v and y are `stride` numbers from each other.
    """
    noinline()
    scale = 1.0 / math.sqrt(size)
    W, K, L = lanes(q), depth(size, workspace), depth(ld, workspace)
    part = K * ld
    queries, keys = operand(q, ld, size, T, workspace), operand(k, ld, size, T, workspace + part)
    gradients, values = operand(dy, ld, size, T, workspace + 2 * part), operand(v, ld, size, T, workspace + 3 * part)
    left = workspace + 4 * part
    dys, qs = rows(dy, ld, size, T, left), rows(q, ld, size, T, left + size * L)
    ks, right = rows(k, ld, size, T, left + 2 * size * L), left + 3 * size * L
    transposed = ds + QUERIES * PAIR * W
    delta = transposed + QUERIES * PAIR * W  # sum over keys of p dp, which is sum over channels of y dy
    for t in range(0, T, W):
        dots = splat(q, 0.0)
        for i in range(size):
            dots = fma(load(dy, i * ld + t), load(y, i * ld + t), dots)
        store(delta, t, dots)
    prefetch = q + size * ld  # the next head, where there is one
    for s in range(0, T, PAIR * W):
        width = PAIR * W if T - s > W else W
        for t in range(s, T, QUERIES):
            M = min(QUERIES, T - t)
            multiply_columns(queries + t, ld, keys + s, ld, p, width, M, K, width, False)
            multiply_columns(gradients + t, ld, values + s, ld, ds, width, M, K, width, False)
            for j in range(0, width, W):
                softmax_back(
                    p + j, ds + j, width, scale, t - s - j, M, maxima + t, inverse + t, delta + t, prefetch, stride
                )
                prefetch = prefetch + M * W
            low, N = depth(t, workspace), depth(M, workspace)
            multiply(dys + low, L, operand(p, width, M, width, right), width, dv + s, ld, size, N, width, t > s)
            multiply(qs + low, L, operand(ds, width, M, width, right), width, dk + s, ld, size, N, width, t > s)
            transpose(ds, width, transposed, QUERIES, M, width)
            seen, columns = min(width, T - s), (M + W - 1) // W * W
            weights = operand(transposed, QUERIES, seen, columns, right)
            low, N = depth(s, workspace), depth(seen, workspace)
            multiply(ks + low, L, weights, QUERIES, dq + t, ld, size, N, columns, s > 0)


@inline
def attend(
    c: Shape, t: Trace, qkv: P, heads: P, ld: int, cache: Cache, rq: P, maxima: P, inverse: P, mix: P, cos: P, sin: P,
    ldr: int, T: int, given: bool,
) -> None:  # fmt: skip
    """All heads of one row: qkv (T, Qs), or `given` as (3 Dp, ld) in `heads`, -> mix (T, Ds).

    A cache holds the row's earlier keys and values.
    """
    D = c.Dp
    q, k, v, y = heads, heads + D * ld, heads + 2 * D * ld, heads + 3 * D * ld
    ldk, past = ld, 0
    if cache.active:
        k, v, ldk, past = cache.k + cache.starts[0], cache.v + cache.starts[0], cache.ld, cache.past[0]
    if not given:
        transpose(qkv, c.Qs, q, ld, T, D)
        transpose(qkv + D, c.Qs, k + past, ldk, T, D)
        transpose(qkv + 2 * D, c.Qs, v + past, ldk, T, D)
    for head in range(c.H):
        at = head * c.size
        new = k + (at * ldk + past)
        if c.rope:
            rotate(c.half, c.size, q + at * ld, ld, cos + past, sin + past, ldr, T)
            rotate(c.half, c.size, new, ldk, cos + past, sin + past, ldr, T)
        if c.qk_norm:
            norm_head(q + at * ld, ld, rq + 2 * head * ld, c.size, T)
            norm_head(new, ldk, rq + (2 * head + 1) * ld, c.size, T)
        attention(
            q + at * ld, ld, k + at * ldk, v + at * ldk, ldk, y + at * ld, maxima + head * ld, inverse + head * ld, t.p,
            c.size, past, T, t.head_panels,
        )  # fmt: skip
    zero(y + c.D * ld, (D - c.D) * ld)
    transpose_back(y, ld, mix, c.Ds, T, D)


@inline
def attend_back(
    c: Shape, t: Trace, dmix: P, heads: P, ld: int, rq: P, maxima: P, inverse: P, dqkv: P, cos: P, sin: P, ldr: int,
    T: int,
) -> None:  # fmt: skip
    """dqkv (T, Qs) of one row."""
    D = c.Dp
    q, k, v, y = heads, heads + D * ld, heads + 2 * D * ld, heads + 3 * D * ld
    dq, dk, dv, dy = t.dheads, t.dheads + D * ld, t.dheads + 2 * D * ld, t.dheads + 3 * D * ld
    transpose(dmix, c.Ds, dy, ld, T, D)
    for head in range(c.H):
        at = head * c.size * ld
        attention_back(
            dy + at, q + at, k + at, v + at, y + at, ld, maxima + head * ld, inverse + head * ld, t.p, t.ds, dq + at,
            dk + at, dv + at, c.size, T, t.head_panels, D * ld,
        )  # fmt: skip
        if c.qk_norm:
            norm_head_back(dq + at, q + at, ld, rq + 2 * head * ld, c.size, T)
            norm_head_back(dk + at, k + at, ld, rq + (2 * head + 1) * ld, c.size, T)
        if c.rope:
            rotate_back(c.half, c.size, dq + at, ld, cos, sin, ldr, T)
            rotate_back(c.half, c.size, dk + at, ld, cos, sin, ldr, T)
    for d in (dq, dk, dv):
        zero(d + c.D * ld, (D - c.D) * ld)
    transpose_back(dq, ld, dqkv, c.Qs, T, D)
    transpose_back(dk, ld, dqkv + D, c.Qs, T, D)
    transpose_back(dv, ld, dqkv + 2 * D, c.Qs, T, D)
