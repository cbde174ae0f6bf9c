"""The forward and the backward pass: the functions of manual.py, in its order, as loops over vectors.

Legend: N positions of some rows, one row of tokens after another without padding; T positions of one row; D n_embd,
H heads, V vocabulary, I in, O out. A gradient is d + name. All widths here are padded to whole vectors; what
pads is zero and stays so: it adds nothing to a product, a norm or a gradient. Weights `w` are (O, I) and `wt`
(I, O), one for the way back and one for the way forth. Inside attention positions lie in the lanes: queries, keys
and values are (D, ld), one column a position, so that softmax, rotation and norm need no sums across lanes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import njit

from microgpt.engines.fused.tiles import PAIR, ROWS, tile, transpose_block
from microgpt.engines.fused.vectors import (
    exp,
    first,
    fma,
    group_sum,
    inverse_root,
    lane,
    lanes,
    largest,
    load,
    maximum,
    once,
    plain,
    positive,
    splat,
    sqrt,
    store,
)

jit: Any = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
inline: Any = njit(error_model="numpy", inline="always")  # for what is called from few places
P = Any  # a pointer


class Shape(NamedTuple):
    """The model in numbers: widths in truth and padded, options, and where each matrix begins in the flat vectors."""

    D: int
    V: int
    H: int
    size: int  # channels a head
    layers: int
    Dp: int
    Fp: int
    Vp: int
    learned: bool
    rope: bool
    half: bool  # RoPE's pairs are half a head apart
    activation: int  # 0 relu, 1 relu2, 2 gelu
    norm_embedding: bool
    final_norm: bool
    qk_norm: bool
    short: bool  # heads so small that several lie in a vector: rows of up to a vector's length go another way
    softcap: float
    dropout: float
    wte: int
    wpe: int
    wpe_size: int
    head: int
    layer: int  # the first layer's qkv
    wo: int  # from there
    fc1: int
    fc2: int
    step: int  # from a layer to the next
    n: int  # all weights


@jit
def product(a: P, down: int, along: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool) -> None:
    """C (M, N) = A (M, K) W (K, N), or added to C, in tiles; see `tile`. N whole vectors."""
    once()
    wide = PAIR * lanes(c)
    full = M - M % ROWS
    j = 0
    while j < N:
        if j + wide <= N:
            for i in range(0, full, ROWS):
                tile(a + i * down, down, along, w + j, ldw, c + (i * ldc + j), ldc, ROWS, K, PAIR, adding)
            tile(a + full * down, down, along, w + j, ldw, c + (full * ldc + j), ldc, M - full, K, PAIR, adding)
            j += wide
        else:
            for i in range(0, full, ROWS):
                tile(a + i * down, down, along, w + j, ldw, c + (i * ldc + j), ldc, ROWS, K, 1, adding)
            tile(a + full * down, down, along, w + j, ldw, c + (full * ldc + j), ldc, M - full, K, 1, adding)
            j += lanes(c)


@inline
def multiply(a: P, lda: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool) -> None:
    """C = A W, or added to C; A is (M, lda)."""
    product(a, lda, plain(1), w, ldw, c, ldc, M, K, N, plain(adding))


@inline
def multiply_columns(a: P, lda: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool) -> None:
    """C = A W, or added to C; A's transpose (K, lda) is what lies in memory."""
    product(a, plain(1), lda, w, ldw, c, ldc, M, K, N, plain(adding))


@jit
def transpose(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """y (N, M) = x^T. N whole vectors; x is read, and y's rows are written, up to the next whole vector of M."""
    once()
    for i in range(0, M, lanes(x)):
        for j in range(0, N, lanes(x)):
            transpose_block(x + (i * ldx + j), ldx, y + (j * ldy + i), ldy, lanes(x))


@jit
def transpose_back(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """y (M, N) = x^T. N whole vectors; x is read up to the next whole vector of M, y holds M rows."""
    once()
    for i in range(0, M, lanes(x)):
        for j in range(0, N, lanes(x)):
            transpose_block(x + (j * ldx + i), ldx, y + (i * ldy + j), ldy, min(M - i, lanes(x)))


@jit
def zero(x: P, n: int) -> None:
    """x[:n] = 0, up to the next whole vector."""
    for i in range(0, n, lanes(x)):
        store(x, i, splat(x, 0.0))


@jit
def copy(x: P, y: P, n: int) -> None:
    """y[:n] = x[:n]."""
    for i in range(0, n, lanes(x)):
        store(y, i, load(x, i))


@jit
def add(x: P, y: P, n: int) -> None:
    """y[:n] += x[:n]."""
    for i in range(0, n, lanes(x)):
        store(y, i, load(y, i) + load(x, i))


@inline
def linear(x: P, wt: P, y: P, N: int, I: int, O: int) -> None:
    """y = x W^T: (N, I), (I, O) -> (N, O)."""
    multiply(x, I, wt, O, y, O, N, I, O, False)


@inline
def linear_back(dy: P, x: P, w: P, dw: P, dx: P, N: int, I: int, O: int, adding: bool) -> None:
    """dx = dy W; dW = dy^T x, or added to dW."""
    multiply_columns(dy, O, x, I, dw, I, O, N, I, adding)
    multiply(dy, O, w, I, dx, I, N, O, I, False)


@jit
def rmsnorm(x: P, y: P, r: P, N: int, D: int, Dp: int) -> None:
    """y = x r with r = 1 / sqrt(mean(x^2) + 1e-5)."""
    once()
    for n in range(N):
        at = n * Dp
        squares = splat(x, 0.0)
        for i in range(0, Dp, lanes(x)):
            v = load(x, at + i)
            squares = fma(v, v, squares)
        scale = inverse_root(group_sum(squares, lanes(x)) * (1.0 / D) + 1e-5)
        r[n] = lane(scale)
        for i in range(0, Dp, lanes(x)):
            store(y, at + i, load(x, at + i) * scale)


@jit
def rmsnorm_back(dy: P, y: P, r: P, dx: P, N: int, D: int, Dp: int, adding: bool) -> None:
    """dx = r (dy - y mean(dy y)), or added to dx, which may be dy."""
    once()
    for n in range(N):
        at = n * Dp
        dots = splat(y, 0.0)
        for i in range(0, Dp, lanes(y)):
            dots = fma(load(dy, at + i), load(y, at + i), dots)
        mean = group_sum(dots, lanes(y)) * (1.0 / D)
        for i in range(0, Dp, lanes(y)):
            d = (load(dy, at + i) - load(y, at + i) * mean) * r[n]
            store(dx, at + i, load(dx, at + i) + d if adding else d)


@jit
def rotate(c: Shape, x: P, ld: int, cos: P, sin: P, ldr: int, T: int) -> None:
    """RoPE on one head (size, T): channel pairs turn by their position's angle, given as (size / 2, T)."""
    once()
    pairs = c.size // 2
    for i in range(pairs):
        a = x + (i if c.half else 2 * i) * ld
        b = x + (i + pairs if c.half else 2 * i + 1) * ld
        for t in range(0, T, lanes(x)):
            va, vb, vcos, vsin = load(a, t), load(b, t), load(cos, i * ldr + t), load(sin, i * ldr + t)
            store(a, t, va * vcos - vb * vsin)
            store(b, t, va * vsin + vb * vcos)


@jit
def rotate_back(c: Shape, dy: P, ld: int, cos: P, sin: P, ldr: int, T: int) -> None:
    """A rotation's derivative turns the other way."""
    once()
    pairs = c.size // 2
    for i in range(pairs):
        a = dy + (i if c.half else 2 * i) * ld
        b = dy + (i + pairs if c.half else 2 * i + 1) * ld
        for t in range(0, T, lanes(dy)):
            va, vb, vcos, vsin = load(a, t), load(b, t), load(cos, i * ldr + t), load(sin, i * ldr + t)
            store(a, t, va * vcos + vb * vsin)
            store(b, t, vb * vcos - va * vsin)


@jit
def norm_head(x: P, ld: int, r: P, size: int, T: int) -> None:
    """RMSNorm of one head (size, T) over its channels, in place."""
    once()
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
    once()
    for t in range(0, T, lanes(y)):
        dots = splat(y, 0.0)
        for i in range(size):
            dots = fma(load(dy, i * ld + t), load(y, i * ld + t), dots)
        mean, scale = dots / size, load(r, t)
        for i in range(size):
            store(dy, i * ld + t, (load(dy, i * ld + t) - load(y, i * ld + t) * mean) * scale)


GELU = math.sqrt(2 / math.pi)


@jit
def activate(c: Shape, x: P, y: P, n: int) -> None:
    """ReLU, its square, or GELU in its tanh form: (1 + tanh u) / 2 = 1 / (1 + exp(-2 u))."""
    once()
    if c.activation == 0:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(y, i, positive(v, v))
    elif c.activation == 1:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(y, i, positive(v, v * v))
    else:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            u = v * fma(v * v, GELU * 0.044715, splat(x, GELU))
            store(y, i, v / (1.0 + exp(-2.0 * u)))


@jit
def activate_back(c: Shape, dy: P, x: P, n: int) -> None:
    """dx from dy and the activation's input, in place of dy."""
    once()
    if c.activation == 0:
        for i in range(0, n, lanes(x)):
            store(dy, i, positive(load(x, i), load(dy, i)))
    elif c.activation == 1:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            store(dy, i, positive(v, 2.0 * v * load(dy, i)))
    else:
        for i in range(0, n, lanes(x)):
            v = load(x, i)
            u = v * fma(v * v, GELU * 0.044715, splat(x, GELU))
            du = fma(v * v, GELU * 3 * 0.044715, splat(x, GELU))
            s = 1.0 / (1.0 + exp(-2.0 * u))
            store(dy, i, load(dy, i) * fma(v * s * (1.0 - s), 2.0 * du, s))


@jit
def attention(
    q: P, ldq: int, k: P, v: P, ld: int, y: P, top: P, inverse: P, p: P, size: int, past: int, T: int
) -> None:
    """One head: y = softmax(q k^T / sqrt(size)) v, causal, for T queries after `past` positions.

    q, y (size, ldq); k, v (size, ld). `top` and `inverse` keep what makes p again: p = exp(scale (s - top)) inverse.
    p is room for the scores of one vector of queries.
    """
    once()
    scale = 1.0 / math.sqrt(size)
    W = lanes(q)
    for t in range(0, T, W):
        past_t = past + t  # keys that all queries of this vector see
        S = min(past + T, past_t + W)
        multiply_columns(k, ld, q + t, ldq, p, W, S, size, W, False)
        high = load(p, 0)
        for s in range(1, past_t + 1):
            high = maximum(high, load(p, s * W))
        for s in range(past_t + 1, S):
            high = maximum(high, first(s - past_t, -math.inf, load(p, s * W)))
        sums = splat(q, 0.0)
        for s in range(past_t + 1):
            e = exp((load(p, s * W) - high) * scale)
            store(p, s * W, e)
            sums = sums + e
        for s in range(past_t + 1, S):
            e = first(s - past_t, 0.0, exp((load(p, s * W) - high) * scale))
            store(p, s * W, e)
            sums = sums + e
        multiply(v, ld, p, W, y + t, ldq, size, S, W, False)
        sums = 1.0 / sums
        for i in range(size):
            store(y, i * ldq + t, load(y, i * ldq + t) * sums)
        store(top, t, high)
        store(inverse, t, sums)


@jit
def attention_back(
    dy: P, q: P, k: P, v: P, y: P, ld: int, top: P, inverse: P, p: P, ds: P, dq: P, dk: P, dv: P, size: int, T: int
) -> None:
    """dq, dk, dv (size, ld) of one head. The weights p are computed again, so that memory grows with T alone.

    Keys lie in the lanes here, a vector of them at a time; ds is then turned, queries into the lanes, for dq.
    p and ds are room for (T + a vector, a vector); ds holds the turned block behind.
    """
    once()
    scale = 1.0 / math.sqrt(size)
    W = lanes(q)
    delta = p + T * W  # sum over keys of p dp, which is sum over channels of y dy
    turned = ds + (T + W) * W
    for t in range(0, T, W):
        dots = splat(q, 0.0)
        for i in range(size):
            dots = fma(load(dy, i * ld + t), load(y, i * ld + t), dots)
            store(dq, i * ld + t, splat(q, 0.0))
        store(delta, t, dots)
    for s in range(0, T, W):
        M = T - s
        multiply_columns(q + s, ld, k + s, ld, p, W, M, size, W, False)
        multiply_columns(dy + s, ld, v + s, ld, ds, W, M, size, W, False)
        for t in range(M):
            e = exp((load(p, t * W) - top[s + t]) * scale) * inverse[s + t]
            d = e * (load(ds, t * W) - delta[s + t]) * scale
            store(p, t * W, first(t + 1, e, 0.0))
            store(ds, t * W, first(t + 1, d, 0.0))
        multiply(dy + s, ld, p, W, dv + s, ld, size, M, W, False)
        multiply(q + s, ld, ds, W, dk + s, ld, size, M, W, False)
        for t in range(0, M, W):
            transpose_block(ds + t * W, W, turned, W, W)
            multiply(k + s, ld, turned, W, dq + (s + t), ld, size, min(W, M), W, True)


@jit
def attention_short(c: Shape, qkv: P, saved: P, pairs: P, y: P, T: int) -> None:
    """All heads of a row of few positions: qkv (T, 3 Dp) -> y (T, Dp), channels in the lanes.

    Several heads lie in a vector, and each of a head's lanes carries the head's number, so no sum leaves its lanes.
    `saved` keeps qkv, `pairs` the weights of every query and key (T (T + 1) / 2, Dp).
    """
    once()
    scale = 1.0 / math.sqrt(c.size)
    D, W = c.Dp, lanes(qkv)
    copy(qkv, saved, T * 3 * D)
    for j in range(0, D, W):
        p = pairs + j
        for t in range(T):
            q = load(qkv, t * 3 * D + j) * scale
            high = splat(qkv, -math.inf)
            for s in range(t + 1):
                score = group_sum(q * load(qkv, s * 3 * D + D + j), c.size)
                store(p, s * D, score)
                high = maximum(high, score)
            sums, mixed = splat(qkv, 0.0), splat(qkv, 0.0)
            for s in range(t + 1):
                e = exp(load(p, s * D) - high)
                store(p, s * D, e)
                sums = sums + e
                mixed = fma(e, load(qkv, s * 3 * D + 2 * D + j), mixed)
            inverse = 1.0 / sums
            store(y, t * D + j, mixed * inverse)
            for s in range(t + 1):
                store(p, s * D, load(p, s * D) * inverse)
            p = p + (t + 1) * D


@jit
def attention_short_back(c: Shape, dy: P, saved: P, pairs: P, y: P, dqkv: P, T: int) -> None:
    """dqkv (T, 3 Dp) of attention_short."""
    once()
    scale = 1.0 / math.sqrt(c.size)
    D, W = c.Dp, lanes(dy)
    for j in range(0, D, W):
        q, k, v = saved + j, saved + (D + j), saved + (2 * D + j)
        dq, dk, dv = dqkv + j, dqkv + (D + j), dqkv + (2 * D + j)
        p = pairs + j
        for t in range(T):
            at = t * 3 * D
            dt, qt, dqt = load(dy, t * D + j), load(q, at), splat(dy, 0.0)
            store(dk, at, dqt)
            store(dv, at, dqt)
            delta = group_sum(dt * load(y, t * D + j), c.size)
            for s in range(0, at + 1, 3 * D):
                weight = load(p, 0)
                ds = weight * (group_sum(dt * load(v, s), c.size) - delta) * scale
                dqt = fma(ds, load(k, s), dqt)
                store(dk, s, fma(ds, qt, load(dk, s)))
                store(dv, s, fma(weight, dt, load(dv, s)))
                p = p + D
            store(dq, at, dqt)


U32 = 0xFFFFFFFF


@jit
def mix(x: int) -> int:
    """microgpt.dropout.mix."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & U32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & U32
    return x ^ (x >> 16)


@jit
def drop(c: Shape, x: P, T: int, seed: int, step: int, row: int, place: int) -> None:
    """x (T, D) times microgpt.dropout.scales, in place."""
    once()
    key = seed & U32
    for part in (seed >> 32, step, row, place):
        key = mix((key + (part & U32) + 0x9E3779B9) & U32)
    threshold, keep = int(c.dropout * 2**32), 1.0 / (1.0 - c.dropout)
    for t in range(T):
        for d in range(c.D):
            x[t * c.Dp + d] *= 0.0 if mix((t * c.D + d) ^ key) < threshold else keep


class Rows(NamedTuple):
    """Rows low .. high of the feed, and what dropout must know of them."""

    tokens: P
    offsets: P
    low: int
    high: int
    first_row: int  # of the step
    dropping: bool
    seed: int
    step: int


@jit
def drop_rows(c: Shape, rows: Rows, x: P, place: int) -> None:
    """Dropout on the positions (N, D) of some rows, in place."""
    once()
    for row in range(rows.low, rows.high):
        T = rows.offsets[row + 1] - rows.offsets[row] - 1
        drop(c, x, T, rows.seed, rows.step, row - rows.first_row, place)
        x = x + T * c.Dp


class Cache(NamedTuple):
    """Keys and values (layers, Dp, ld) of the positions so far, or none."""

    k: P
    v: P
    ld: int
    past: int
    active: bool


class Trace(NamedTuple):
    """What the backward pass needs of the forward pass, and room to work in; for every layer unless noted."""

    x: P  # the residual stream, not by layer
    x0: P  # the normed embedding, not by layer
    r0: P
    n1: P
    r1: P
    heads: P  # for each row queries, keys, values and mix (4 Dp, ld)
    rq: P  # of the norm of queries and keys (2 H, ld)
    top: P  # of the scores (H, ld)
    inverse: P
    pairs: P  # of rows that go the short way, the weights of queries and keys
    mix: P
    n2: P
    r2: P
    h: P
    a: P
    y: P  # the head's input, not by layer
    r: P
    logits: P
    dlogits: P
    qkv: P  # room from here on
    o: P
    dx: P
    do: P
    dn: P
    da: P
    dheads: P
    p: P
    ds: P
    end: P


@jit
def lay_out(c: Shape, p: P, N: int, columns: int, S: int, W: int) -> Trace:
    """The trace of N positions that take `columns` columns by row, at most S keys a row, W lanes."""
    slack = W * W  # blocks are read whole
    L, D, F = c.layers, c.Dp, c.Fp
    x = p
    x0 = x + (N * D + slack)
    r0 = x0 + (N * D + slack)
    n1 = r0 + (N + slack)
    r1 = n1 + (L * N * D + slack)
    heads = r1 + (L * N + slack)
    rq = heads + (L * 4 * D * columns + slack)
    top = rq + (L * 2 * c.H * columns + slack)
    inverse = top + (L * c.H * columns + slack)
    pairs = inverse + (L * c.H * columns + slack)
    mix = pairs + ((L * columns * (W + 1) // 2 * D if c.short else 0) + slack)
    n2 = mix + (L * N * D + slack)
    r2 = n2 + (L * N * D + slack)
    h = r2 + (L * N + slack)
    a = h + (L * N * F + slack)
    y = a + (L * N * F + slack)
    r = y + (N * D + slack)
    logits = r + (N + slack)
    dlogits = logits + (N * c.Vp + slack)
    qkv = dlogits + (N * c.Vp + slack)
    o = qkv + ((N + W) * 3 * D + slack)
    dx = o + ((N + W) * D + slack)
    do = dx + ((N + W) * D + slack)
    dn = do + ((N + W) * D + slack)
    da = dn + ((N + W) * D + slack)
    dheads = da + (N * F + slack)
    scores = dheads + (5 * D * columns + slack)
    ds = scores + ((S + 3 * W) * W + slack)
    end = ds + ((S + 3 * W) * W + slack)
    return Trace(
        x, x0, r0, n1, r1, heads, rq, top, inverse, pairs, mix, n2, r2, h, a, y, r, logits, dlogits, qkv, o, dx, do, dn, da,
        dheads, scores, ds, end,
    )  # fmt: skip


@inline
def attend(
    c: Shape, t: Trace, qkv: P, heads: P, ld: int, cache: Cache, rq: P, top: P, inverse: P, mix: P, cos: P, sin: P,
    ldr: int, T: int,
) -> None:  # fmt: skip
    """All heads of one row: qkv (T, 3 Dp) -> mix (T, Dp). A cache holds the row's earlier keys and values."""
    once()
    D = c.Dp
    q, k, v, y = heads, heads + D * ld, heads + 2 * D * ld, heads + 3 * D * ld
    ldk = ld
    if cache.active:
        k, v, ldk = cache.k, cache.v, cache.ld
    transpose(qkv, 3 * D, q, ld, T, D)
    transpose(qkv + D, 3 * D, k + cache.past, ldk, T, D)
    transpose(qkv + 2 * D, 3 * D, v + cache.past, ldk, T, D)
    for head in range(c.H):
        at = head * c.size
        new = k + (at * ldk + cache.past)
        if c.rope:
            rotate(c, q + at * ld, ld, cos + cache.past, sin + cache.past, ldr, T)
            rotate(c, new, ldk, cos + cache.past, sin + cache.past, ldr, T)
        if c.qk_norm:
            norm_head(q + at * ld, ld, rq + 2 * head * ld, c.size, T)
            norm_head(new, ldk, rq + (2 * head + 1) * ld, c.size, T)
        attention(
            q + at * ld, ld, k + at * ldk, v + at * ldk, ldk, y + at * ld, top + head * ld, inverse + head * ld, t.p,
            c.size, cache.past, T,
        )  # fmt: skip
    zero(y + c.D * ld, (D - c.D) * ld)
    transpose_back(y, ld, mix, D, T, D)


@inline
def attend_back(
    c: Shape, t: Trace, dmix: P, heads: P, ld: int, rq: P, top: P, inverse: P, dqkv: P, cos: P, sin: P, ldr: int, T: int
) -> None:
    """dqkv (T, 3 Dp) of one row."""
    once()
    D = c.Dp
    q, k, v, y = heads, heads + D * ld, heads + 2 * D * ld, heads + 3 * D * ld
    dq, dk, dv, dy = t.dheads, t.dheads + D * ld, t.dheads + 2 * D * ld, t.dheads + 3 * D * ld
    transpose(dmix, D, dy, ld, T, D)
    for head in range(c.H):
        at = head * c.size * ld
        attention_back(
            dy + at, q + at, k + at, v + at, y + at, ld, top + head * ld, inverse + head * ld, t.p, t.ds, dq + at,
            dk + at, dv + at, c.size, T,
        )  # fmt: skip
        if c.qk_norm:
            norm_head_back(dq + at, q + at, ld, rq + 2 * head * ld, c.size, T)
            norm_head_back(dk + at, k + at, ld, rq + (2 * head + 1) * ld, c.size, T)
        if c.rope:
            rotate_back(c, dq + at, ld, cos, sin, ldr, T)
            rotate_back(c, dk + at, ld, cos, sin, ldr, T)
    for d in (dq, dk, dv):
        zero(d + c.D * ld, (D - c.D) * ld)
    transpose_back(dq, ld, dqkv, 3 * D, T, D)
    transpose_back(dk, ld, dqkv + D, 3 * D, T, D)
    transpose_back(dv, ld, dqkv + 2 * D, 3 * D, T, D)


@inline
def forward(
    c: Shape, w: P, wt: P, rows: Rows, t: Trace, cache: Cache, cos: P, sin: P, ldr: int, N: int, NT: int
) -> None:
    """Logits (N, Vp) of the rows' tokens, and what the way back needs; a cache continues one row."""
    once()
    D, F, W = c.Dp, c.Fp, lanes(w)
    n = 0
    for row in range(rows.low, rows.high):
        T = rows.offsets[row + 1] - rows.offsets[row] - 1
        for s in range(T):
            token = rows.tokens[rows.offsets[row] + s]
            copy(w + (c.wte + token * D), t.x + n * D, D)
            if c.learned:
                add(w + (c.wpe + (cache.past + s) * D), t.x + n * D, D)
            n += 1
    if c.norm_embedding:
        rmsnorm(t.x, t.x0, t.r0, N, c.D, D)
        copy(t.x0, t.x, N * D)
    if rows.dropping:
        drop_rows(c, rows, t.x, plain(0))
    for i in range(c.layers):
        lw = wt + (c.layer + i * c.step)
        n1, mix, n2, h, a = t.n1 + i * N * D, t.mix + i * N * D, t.n2 + i * N * D, t.h + i * N * F, t.a + i * N * F
        rmsnorm(t.x, n1, t.r1 + i * N, N, c.D, D)
        linear(n1, lw, t.qkv, N, D, 3 * D)
        n, column = 0, i * NT
        for row in range(rows.low, rows.high):
            T = rows.offsets[row + 1] - rows.offsets[row] - 1
            ld = (T + W - 1) // W * W
            past = Cache(cache.k + i * D * cache.ld, cache.v + i * D * cache.ld, cache.ld, cache.past, cache.active)
            heads = t.heads + 4 * D * column
            if c.short and T <= W and not cache.active:
                attention_short(c, t.qkv + n * 3 * D, heads, t.pairs + column * (W + 1) // 2 * D, mix + n * D, T)
            else:
                attend(
                    c, t, t.qkv + n * 3 * D, heads, ld, past, t.rq + 2 * c.H * column, t.top + c.H * column,
                    t.inverse + c.H * column, mix + n * D, cos, sin, ldr, T,
                )  # fmt: skip
            n += T
            column += ld
        if rows.dropping:
            linear(mix, lw + c.wo, t.o, N, D, D)
            drop_rows(c, rows, t.o, 2 * i + 1)
            add(t.o, t.x, N * D)
        else:
            multiply(mix, D, lw + c.wo, D, t.x, D, N, D, D, plain(True))
        rmsnorm(t.x, n2, t.r2 + i * N, N, c.D, D)
        linear(n2, lw + c.fc1, h, N, D, F)
        activate(c, h, a, N * F)
        if rows.dropping:
            linear(a, lw + c.fc2, t.o, N, F, D)
            drop_rows(c, rows, t.o, 2 * i + 2)
            add(t.o, t.x, N * D)
        else:
            multiply(a, F, lw + c.fc2, D, t.x, D, N, F, D, True)
    if c.final_norm:
        rmsnorm(t.x, t.y, t.r, N, c.D, D)
    else:
        copy(t.x, t.y, N * D)
    linear(t.y, wt + c.head, t.logits, N, D, c.Vp)
    if c.softcap > 0:
        for j in range(0, N * c.Vp, W):
            store(t.logits, j, c.softcap - 2.0 * c.softcap / (1.0 + exp(load(t.logits, j) * (2.0 / c.softcap))))


@jit
def cross_entropy(c: Shape, rows: Rows, scored: P, weight: float, logits: P, dlogits: P) -> float:
    """The weighted sum of -log softmax(logits)[target]; dlogits = weight (softmax(logits) - onehot(target))."""
    once()
    # log a + log b = log a b: one logarithm for many positions
    odds, score, whole = 0.0, 0.0, 1.0
    W = lanes(logits)
    tail = c.Vp - W
    for row in range(rows.low, rows.high):
        for at in range(rows.offsets[row] + 1, rows.offsets[row + 1]):
            if scored[at] == 0:
                zero(dlogits, c.Vp)
            else:
                ends = first(c.V - tail, load(logits, tail), -math.inf)
                highest = ends
                for j in range(0, tail, W):
                    highest = maximum(highest, load(logits, j))
                top = largest(highest)
                target = rows.tokens[at]
                score += logits[target] - top
                ends = first(c.V - tail, exp(ends - top), 0.0)
                sums = ends
                for j in range(0, tail, W):
                    e = exp(load(logits, j) - top)
                    store(dlogits, j, e)
                    sums = sums + e
                store(dlogits, tail, ends)
                sums = group_sum(sums, W)
                whole *= lane(sums)
                if whole > 1e200:
                    odds += math.log(whole)
                    whole = 1.0
                scale = weight / sums
                for j in range(0, c.Vp, W):
                    store(dlogits, j, load(dlogits, j) * scale)
                dlogits[target] -= weight
            logits = logits + c.Vp
            dlogits = dlogits + c.Vp
    return weight * (odds + math.log(whole) - score)


@inline
def backward(
    c: Shape, w: P, dw: P, rows: Rows, t: Trace, cos: P, sin: P, ldr: int, N: int, NT: int, adding: bool
) -> None:
    """The gradients of all weights, or added to dw, given those of the logits."""
    once()
    D, F, W = c.Dp, c.Fp, lanes(w)
    if c.softcap > 0:
        for j in range(0, N * c.Vp, W):
            part = load(t.logits, j) * (1.0 / c.softcap)
            store(t.dlogits, j, load(t.dlogits, j) * (1.0 - part * part))
    linear_back(t.dlogits, t.y, w + c.head, dw + c.head, t.dx, N, D, c.Vp, adding)
    if c.final_norm:
        rmsnorm_back(t.dx, t.y, t.r, t.dx, N, c.D, D, plain(False))
    do = t.do if rows.dropping else t.dx
    for i in range(c.layers - 1, -1, -1):
        lw, ldw = w + (c.layer + i * c.step), dw + (c.layer + i * c.step)
        n1, mix, n2, h, a = t.n1 + i * N * D, t.mix + i * N * D, t.n2 + i * N * D, t.h + i * N * F, t.a + i * N * F
        if rows.dropping:
            copy(t.dx, do, N * D)
            drop_rows(c, rows, do, 2 * i + 2)
        linear_back(do, a, lw + c.fc2, ldw + c.fc2, t.da, N, F, D, adding)
        activate_back(c, t.da, h, N * F)
        linear_back(t.da, n2, lw + c.fc1, ldw + c.fc1, t.dn, N, D, F, adding)
        rmsnorm_back(t.dn, n2, t.r2 + i * N, t.dx, N, c.D, D, plain(True))
        if rows.dropping:
            copy(t.dx, do, N * D)
            drop_rows(c, rows, do, 2 * i + 1)
        linear_back(do, mix, lw + c.wo, ldw + c.wo, t.dn, N, D, D, adding)
        n, column = 0, i * NT
        for row in range(rows.low, rows.high):
            T = rows.offsets[row + 1] - rows.offsets[row] - 1
            ld = (T + W - 1) // W * W
            heads = t.heads + 4 * D * column
            if c.short and T <= W:
                pairs = t.pairs + column * (W + 1) // 2 * D
                attention_short_back(c, t.dn + n * D, heads, pairs, mix + n * D, t.qkv + n * 3 * D, T)
            else:
                attend_back(
                    c, t, t.dn + n * D, heads, ld, t.rq + 2 * c.H * column, t.top + c.H * column,
                    t.inverse + c.H * column, t.qkv + n * 3 * D, cos, sin, ldr, T,
                )  # fmt: skip
            n += T
            column += ld
        linear_back(t.qkv, n1, lw, ldw, t.dn, N, D, 3 * D, adding)
        rmsnorm_back(t.dn, n1, t.r1 + i * N, t.dx, N, c.D, D, plain(True))
    if rows.dropping:
        drop_rows(c, rows, t.dx, plain(0))
    if c.norm_embedding:
        rmsnorm_back(t.dx, t.x0, t.r0, t.dx, N, c.D, D, plain(False))
    if not adding:
        zero(dw + c.wpe, c.wpe_size)
        if c.head != c.wte:
            zero(dw + c.wte, c.Vp * D)
    n = 0
    for row in range(rows.low, rows.high):
        for s in range(rows.offsets[row + 1] - rows.offsets[row] - 1):
            token = rows.tokens[rows.offsets[row] + s]
            add(t.dx + n * D, dw + (c.wte + token * D), D)
            if c.learned:
                add(t.dx + n * D, dw + (c.wpe + s * D), D)
            n += 1
