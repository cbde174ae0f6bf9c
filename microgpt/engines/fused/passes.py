"""The forward and the backward pass: the functions of manual.py, in its order, as loops over vectors.

Weights are (out, in) in `w`, in panels; in `wt` they are transposed, (in, out). Legend: layout.py.
"""

from __future__ import annotations

import math

from microgpt.engines.fused import attention_short
from microgpt.engines.fused.activations import activate, activate_back, softcap
from microgpt.engines.fused.adam import Weights, settled, squares
from microgpt.engines.fused.attention import attend, attend_back
from microgpt.engines.fused.attention_decode import attend_each, turns
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import Cache, Matrix, P, Rows, Shape, Trace
from microgpt.engines.fused.linear import input_back, linear, linear_back, project, weights_back
from microgpt.engines.fused.plan import Plan
from microgpt.engines.fused.simd.exp import LOG2E, exp2
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import add, copy, place, stride, zero
from microgpt.engines.fused.simd.vectors import (
    first,
    fma,
    group_sum,
    inverse_root,
    lane,
    lanes,
    largest,
    load,
    maximum,
    splat,
    store,
)


@jit
def rmsnorm(x: P, y: P, r: P, N: int, D: int, Dp: int) -> None:
    """y = x r with r = 1 / sqrt(mean(x^2) + 1e-5)."""
    noinline()
    for n in range(N):
        at = n * stride(Dp, lanes(x))
        sums = splat(x, 0.0)
        for i in range(0, Dp, lanes(x)):
            v = load(x, at + i)
            sums = fma(v, v, sums)
        scale = inverse_root(group_sum(sums, lanes(x)) * (1.0 / D) + 1e-5)
        r[n] = lane(scale)
        for i in range(0, Dp, lanes(x)):
            store(y, at + i, load(x, at + i) * scale)


@jit
def rmsnorm_back(dy: P, y: P, r: P, dx: P, N: int, D: int, Dp: int, adding: bool) -> None:
    """dx = r (dy - y mean(dy y)), or added to dx; dx may be dy."""
    noinline()
    for n in range(N):
        at = n * stride(Dp, lanes(y))
        dots = splat(y, 0.0)
        for i in range(0, Dp, lanes(y)):
            dots = fma(load(dy, at + i), load(y, at + i), dots)
        mean = group_sum(dots, lanes(y)) * (1.0 / D)
        for i in range(0, Dp, lanes(y)):
            d = (load(dy, at + i) - load(y, at + i) * mean) * r[n]
            store(dx, at + i, load(dx, at + i) + d if adding else d)


U32 = 0xFFFFFFFF


@jit
def mix(x: int) -> int:
    """microgpt.engines.common.dropout.mix."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & U32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & U32
    return x ^ (x >> 16)


@jit
def drop(c: Shape, x: P, T: int, seed: int, step: int, row: int, place: int) -> None:
    """x (T, Ds) times microgpt.engines.common.dropout.scales, in place."""
    noinline()
    key = seed & U32
    for part in (seed >> 32, step, row, place):
        key = mix((key + (part & U32) + 0x9E3779B9) & U32)
    threshold, keep = int(c.dropout * 2**32), 1.0 / (1.0 - c.dropout)
    for t in range(T):
        for d in range(c.D):
            x[t * c.Ds + d] *= 0.0 if mix((t * c.D + d) ^ key) < threshold else keep


@jit
def drop_rows(c: Shape, rows: Rows, x: P, place: int) -> None:
    """Dropout on the positions (N, Ds) of some rows, in place."""
    noinline()
    for row in range(rows.low, rows.high):
        T = rows.offsets[row + 1] - rows.offsets[row] - 1
        drop(c, x, T, rows.seed, rows.step, row - rows.first_row, place)
        x = x + T * c.Ds


@inline
def forward(
    c: Shape,
    plan: Plan,
    k: Weights,
    rows: Rows,
    t: Trace,
    cache: Cache,
    cos: P,
    sin: P,
    ldr: int,
    N: int,
    NT: int,
    skip: int,
) -> None:
    """Logits (N - skip, Vp) of the rows' tokens from number `skip` on, and the trace for the backward pass.

    A cache continues one row, or several by a token each. NT is the number of columns where each row is padded to
    whole vectors, or all of those tokens together.
    """
    w = k.w
    D, F, W = c.Dp, c.Fp, lanes(w)
    n = 0
    for row in range(rows.low, rows.high):
        T = rows.offsets[row + 1] - rows.offsets[row] - 1
        past = cache.past[row] if cache.active else 0
        for s in range(T):
            token = rows.tokens[rows.offsets[row] + s]
            for j in range(0, D, W):
                x = load(w, c.wte + place(token, j, c.Vp, D, W))
                if c.learned:
                    x = x + load(w, c.wpe + place(past + s, j, c.block, D, W))
                store(t.x, n * c.Ds + j, x)
            n += 1
    if c.norm_embedding:
        rmsnorm(t.x, t.x0, t.r0, N, c.D, D)
        copy(t.x0, t.x, N * c.Ds)
    if rows.dropping:
        drop_rows(c, rows, t.x, 0)
    each = cache.active and rows.high - rows.low == N
    if each and c.rope:
        turns(c, cache, t.dheads, cos, sin, ldr, N, NT)
    for i in range(c.layers):
        at, layer = c.layer + i * c.step, 0 if cache.active else i
        qkv, wo, then = Matrix(at, D, 3 * D), Matrix(at + c.wo, D, D), Matrix(at + c.step, D, 3 * D)
        fc1, fc2 = Matrix(at + c.fc1, D, F), Matrix(at + c.fc2, F, D)
        n1, mix = t.n1 + layer * N * c.Ds, t.mix + layer * N * c.Ds
        n2, h = t.n2 + layer * N * c.Ds, t.h + layer * N * c.Fs
        rmsnorm(t.x, n1, t.r1 + layer * N, N, c.D, D)
        if not rows.separate:
            linear(plan, n1, k, qkv, wo, t.qkv, N, False, t.panels)
        at = i * D * cache.width
        earlier = Cache(
            cache.k + at, cache.v + at, cache.width, cache.ld, cache.block, cache.starts, cache.past, cache.active
        )
        if each:
            attend_each(c, t.qkv, t.heads, NT, earlier, t.rq, mix, t.dheads, t.p, N)
        n, column = 0, layer * NT
        for row in range(rows.high if each else rows.low, rows.high):
            T = rows.offsets[row + 1] - rows.offsets[row] - 1
            ld = (T + W - 1) // W * W
            heads = t.heads + 4 * D * column
            if c.short and T <= W and not cache.active:
                attention_short.attention(
                    c.size, D, t.qkv + n * c.Qs, heads, t.pairs + column * (W + 1) // 2 * D, mix + n * c.Ds, T
                )
            else:
                if rows.separate:
                    project(
                        plan, n1 + n * c.Ds, k, qkv, wo, heads, ld, T, row > rows.low, row + 1 < rows.high, t.panels
                    )
                attend(
                    c, t, t.qkv + n * c.Qs, heads, ld, earlier, t.rq + 2 * c.H * column, t.maxima + c.H * column,
                    t.inverse + c.H * column, mix + n * c.Ds, cos, sin, ldr, T, rows.separate,
                )  # fmt: skip
            n += T
            column += ld
        if rows.dropping:
            linear(plan, mix, k, wo, fc1, t.o, N, False, t.panels)
            drop_rows(c, rows, t.o, 2 * i + 1)
            add(t.o, t.x, N * c.Ds)
        else:
            linear(plan, mix, k, wo, fc1, t.x, N, True, t.panels)
        rmsnorm(t.x, n2, t.r2 + layer * N, N, c.D, D)
        linear(plan, n2, k, fc1, fc2, h, N, False, t.panels)
        activate(c.activation, h, t.a, N * c.Fs)
        if rows.dropping:
            linear(plan, t.a, k, fc2, then, t.o, N, False, t.panels)
            drop_rows(c, rows, t.o, 2 * i + 2)
            add(t.o, t.x, N * c.Ds)
        else:
            linear(plan, t.a, k, fc2, then, t.x, N, True, t.panels)
    if c.final_norm:
        rmsnorm(t.x, t.y, t.r, N, c.D, D)
    else:
        copy(t.x, t.y, N * c.Ds)
    last = settled(w, k.wt, k.transposed, k.keep)
    head = Matrix(c.head, D, c.Vp)
    linear(plan, t.y + skip * c.Ds, last, head, head, t.logits, N - skip, False, t.panels)
    if c.softcap > 0:
        for j in range(0, (N - skip) * c.Vs, W):
            store(t.logits, j, softcap(load(t.logits, j), c.softcap))


@inline
def cross_entropy(c: Shape, rows: Rows, scored: P, weight: float, logits: P, dlogits: P) -> float:
    """The weighted sum of -log softmax(logits)[target]; dlogits = weight (softmax(logits) - onehot(target))."""
    # log a + log b = log a b: one logarithm for many positions
    logs, score, whole = 0.0, 0.0, 1.0
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
                ends = first(c.V - tail, exp2((ends - top) * LOG2E), 0.0)
                sums = ends
                for j in range(0, tail, W):
                    e = exp2((load(logits, j) - top) * LOG2E)
                    store(dlogits, j, e)
                    sums = sums + e
                store(dlogits, tail, ends)
                sums = group_sum(sums, W)
                whole *= lane(sums)
                if whole > 1e200:
                    logs += math.log(whole)
                    whole = 1.0
                scale = weight / sums
                for j in range(0, c.Vp, W):
                    store(dlogits, j, load(dlogits, j) * scale)
                dlogits[target] -= weight
            logits = logits + c.Vs
            dlogits = dlogits + c.Vs
    return weight * (logs + math.log(whole) - score)


@inline
def backward(
    c: Shape,
    plan: Plan,
    w: P,
    dw: P,
    rows: Rows,
    t: Trace,
    cos: P,
    sin: P,
    ldr: int,
    N: int,
    NT: int,
    adding: bool,
    last: bool,
) -> float:
    """The gradients of all weights, or added to dw, given the logits'; returns the sum of their squares if `last`."""
    D, F, W, norm = c.Dp, c.Fp, lanes(w), 0.0
    if c.softcap > 0:
        for j in range(0, N * c.Vs, W):
            part = load(t.logits, j) * (1.0 / c.softcap)
            store(t.dlogits, j, load(t.dlogits, j) * (1.0 - part * part))
    linear_back(plan, t.dlogits, t.y, w + c.head, dw + c.head, t.dx, N, D, c.Vp, adding, t.panels)
    if c.final_norm:
        rmsnorm_back(t.dx, t.y, t.r, t.dx, N, c.D, D, False)
    do = t.do if rows.dropping else t.dx
    for i in range(c.layers - 1, -1, -1):
        lw, ldw = w + (c.layer + i * c.step), dw + (c.layer + i * c.step)
        n1, mix, n2, h = t.n1 + i * N * c.Ds, t.mix + i * N * c.Ds, t.n2 + i * N * c.Ds, t.h + i * N * c.Fs
        if rows.dropping:
            copy(t.dx, do, N * c.Ds)
            drop_rows(c, rows, do, 2 * i + 2)
        input_back(plan, do, lw + c.fc2, t.da, N, F, D, h, t.panels)
        activate_back(c.activation, t.da, h, t.a, N * c.Fs)
        weights_back(plan, do, t.a, ldw + c.fc2, N, F, D, adding, t.panels)
        linear_back(plan, t.da, n2, lw + c.fc1, ldw + c.fc1, t.dn, N, D, F, adding, t.panels)
        rmsnorm_back(t.dn, n2, t.r2 + i * N, t.dx, N, c.D, D, True)
        if rows.dropping:
            copy(t.dx, do, N * c.Ds)
            drop_rows(c, rows, do, 2 * i + 1)
        linear_back(plan, do, mix, lw + c.wo, ldw + c.wo, t.dn, N, D, D, adding, t.panels)
        n, column = 0, i * NT
        for row in range(rows.low, rows.high):
            T = rows.offsets[row + 1] - rows.offsets[row] - 1
            ld = (T + W - 1) // W * W
            heads = t.heads + 4 * D * column
            if c.short and T <= W:
                pairs = t.pairs + column * (W + 1) // 2 * D
                attention_short.attention_back(
                    c.size, D, t.dn + n * c.Ds, heads, pairs, mix + n * c.Ds, t.qkv + n * c.Qs, T
                )
            else:
                attend_back(
                    c, t, t.dn + n * c.Ds, heads, ld, t.rq + 2 * c.H * column, t.maxima + c.H * column,
                    t.inverse + c.H * column, t.qkv + n * c.Qs, cos, sin, ldr, T,
                )  # fmt: skip
            n += T
            column += ld
        linear_back(plan, t.qkv, n1, lw, ldw, t.dn, N, D, 3 * D, adding, t.panels)
        rmsnorm_back(t.dn, n1, t.r1 + i * N, t.dx, N, c.D, D, True)
        if last:
            norm += squares(ldw, c.step)  # while they are in the cache
    if rows.dropping:
        drop_rows(c, rows, t.dx, 0)
    if c.norm_embedding:
        rmsnorm_back(t.dx, t.x0, t.r0, t.dx, N, c.D, D, False)
    if not adding:
        zero(dw + c.wpe, c.wpe_size)
        if c.head != c.wte:
            zero(dw + c.wte, c.Vp * D)
    n = 0
    for row in range(rows.low, rows.high):
        for s in range(rows.offsets[row + 1] - rows.offsets[row] - 1):
            token = rows.tokens[rows.offsets[row] + s]
            for j in range(0, D, W):
                d, at = load(t.dx, n * c.Ds + j), c.wte + place(token, j, c.Vp, D, W)
                store(dw, at, load(dw, at) + d)
                if c.learned:
                    at = c.wpe + place(s, j, c.block, D, W)
                    store(dw, at, load(dw, at) + d)
            n += 1
    return norm + squares(dw, c.layer) if last else 0.0
