"""The kernel that generates whole sequences, one after another. Legend: layout.py.

The general path is `forward` with a cache. Small models take a fast path: channels are in the lanes, and the results
that depend on a token and its position alone come from a table. Its logits may differ in the last digits, so a draw
that falls near the boundary between two tokens is repeated on the general path: the sequences are the same.
"""

from __future__ import annotations

import math
from typing import Any

from microgpt.engines.fused import layout
from microgpt.engines.fused.activations import activate, softcap
from microgpt.engines.fused.adam import settled
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import (
    Bytes,
    Cache,
    DecodeWorkspace,
    Doubles,
    Ints,
    Operands,
    P,
    Rows,
    Shape,
    Stored,
    Tokens,
)
from microgpt.engines.fused.passes import forward, rmsnorm
from microgpt.engines.fused.plan import PAIR, Plan
from microgpt.engines.fused.simd.exp import LOG2E, exp, exp2
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import place
from microgpt.engines.fused.simd.vectors import (
    first,
    fma,
    group_sum,
    inverse,
    lanes,
    largest,
    load,
    load_as,
    maximum,
    splat,
    store,
    total,
)
from microgpt.engines.fused.simd.vectors import numbers as retyped

TYPICAL_LOGIT = 16.0  # few logits are larger

decode_workspace, lay_out = inline(layout.decode_workspace), inline(layout.lay_out)


@jit
def draw(logits: P, V: int, temperature: float, uniform: float, e: P) -> Any:
    """A token as microgpt.inference.sampling draws it, and its distance from a boundary as a share of the mass.

    For logits beyond TYPICAL_LOGIT, whose errors are larger, the distance is reduced in proportion. In float64; e is a
    workspace for V numbers in whole vectors, and so many of the logits are read. The token is -1 where the largest
    logit is not finite.
    """
    noinline()
    if temperature == 0:
        best = 0
        for j in range(V):
            if logits[j] > logits[best]:
                best = j
        return best if abs(logits[best]) < math.inf else -1, 1.0
    W = lanes(e)
    high, size = splat(e, -math.inf), splat(e, TYPICAL_LOGIT)
    for j in range(0, V, W):
        z = first(V - j, load_as(e, logits, j), -math.inf)
        size = maximum(size, first(V - j, maximum(z, z * -1.0), 0.0))
        z = z / temperature
        store(e, j, z)
        high = maximum(high, z)
    top = largest(high)
    sums = splat(e, 0.0)
    for j in range(0, V, W):
        weights = exp(load(e, j) - top)
        store(e, j, weights)
        sums = sums + weights
    whole = total(sums)
    if not whole < math.inf:
        return -1, 0.0
    reach, mass, token = uniform * whole, e[0], 0
    while mass <= reach and token < V - 1:
        token += 1
        mass += e[token]
    gap = min(mass - reach, reach - mass + e[token] if token else 1.0 * whole)
    return token, gap / whole * (TYPICAL_LOGIT / largest(size))


@jit
def combine(x: P, w: P, K: int, N: int, j: int) -> Any:
    """The vector of x w at column j, with w (K, N) in panels and K a multiple of four.

    Four independent sums hide the latency of an addition.
    """
    noinline()
    W = lanes(x)
    ld, w = min(PAIR * W, N - j + j % (PAIR * W)), w + place(0, j, K, N, W)
    a, b, c, d = splat(x, 0.0), splat(x, 0.0), splat(x, 0.0), splat(x, 0.0)
    for k in range(0, K, 4):
        a = fma(splat(x, x[k]), load(w, k * ld), a)
        b = fma(splat(x, x[k + 1]), load(w, (k + 1) * ld), b)
        c = fma(splat(x, x[k + 2]), load(w, (k + 2) * ld), c)
        d = fma(splat(x, x[k + 3]), load(w, (k + 3) * ld), d)
    return (a + b) + (c + d)


@inline
def look_up(c: Shape, w: P, wt: P, d: DecodeWorkspace, S: int, token: int, at: int) -> P:
    """The table's entry of a token at a position, computed the first time."""
    D, W = c.Dp, lanes(w)
    x = d.table + (token * S + at) * 4 * D
    if d.known[token * S + at] == 0:
        d.known[token * S + at] = 1
        for j in range(0, D, W):
            store(x, j, load(w, c.wte + place(token, j, c.Vp, D, W)) + load(w, c.wpe + place(at, j, c.block, D, W)))
        if c.norm_embedding:
            rmsnorm(x, x, d.r, 1, c.D, D)
        rmsnorm(x, d.n, d.r, 1, c.D, D)
        for j in range(0, 3 * D, W):
            store(x, D + j, combine(d.n, wt + c.layer, D, 3 * D, j))
    return x


@inline
def step(c: Shape, w: P, wt: P, d: DecodeWorkspace, S: int, token: int, at: int) -> None:
    """The logits after one more token at position `at`, as `forward` of that token with a cache of the others."""
    D, F, W = c.Dp, c.Fp, lanes(w)
    scale = LOG2E / math.sqrt(c.size)
    found = look_up(c, w, wt, d, S, token, at)
    for j in range(0, D, W):
        store(d.x, j, load(found, j))
    qkv = found + D
    for i in range(c.layers):
        lw, keys, values = wt + (c.layer + i * c.step), d.keys + i * S * D, d.values + i * S * D
        if i > 0:
            rmsnorm(d.x, d.mix, d.r, 1, c.D, D)
            qkv = d.n
            for j in range(0, 3 * D, W):
                store(qkv, j, combine(d.mix, lw, D, 3 * D, j))
        for j in range(0, D, W):
            store(keys, at * D + j, load(qkv, D + j))
            store(values, at * D + j, load(qkv, 2 * D + j))
            q = load(qkv, j) * scale
            high = splat(w, -math.inf)
            for s in range(at + 1):
                score = group_sum(q * load(keys, s * D + j), c.size)
                store(d.p, s * W, score)
                high = maximum(high, score)
            sums, mixed = splat(w, 0.0), splat(w, 0.0)
            for s in range(at + 1):
                e = exp2(load(d.p, s * W) - high)
                sums = sums + e
                mixed = fma(e, load(values, s * D + j), mixed)
            store(d.mix, j, mixed * inverse(sums))
        for j in range(0, D, W):
            store(d.x, j, load(d.x, j) + combine(d.mix, lw + c.wo, D, D, j))
        rmsnorm(d.x, d.n, d.r, 1, c.D, D)
        for j in range(0, F, W):
            store(d.h, j, combine(d.n, lw + c.fc1, D, F, j))
        activate(c.activation, d.h, d.h, F)
        for j in range(0, D, W):
            store(d.x, j, load(d.x, j) + combine(d.h, lw + c.fc2, F, D, j))
    if c.final_norm:
        rmsnorm(d.x, d.x, d.r, 1, c.D, D)
    for j in range(0, c.Vp, W):
        z = combine(d.x, wt + c.head, D, c.Vp, j)
        if c.softcap > 0:
            z = softcap(z, c.softcap)
        store(d.logits, j, z)


def generate(
    c: Shape, plan: Plan, prompts: Tokens, offsets: Ints, count: int, max_length: int, temperature: float,
    uniform: Doubles, numbers: int, stop: int, w: P, wt: Stored, table: P, known: Bytes, tolerance: float, trace: P,
    panels: Operands, S: int, cos: P, sin: P, ldr: int, keys: P, values: P, ld: int, e: Doubles, seen: Tokens,
    span: Ints, out: Tokens, ends: Ints, numbers_used: Ints,
) -> int:  # fmt: skip
    """Generate `count` sequences after the prompts into `out`; ends[i + 1] is where the i-th ends.

    The sequences draw from the `numbers` of `uniform` one after another and end early where these might not suffice for
    one more. Returns how many sequences were generated, -1 for logits that are not finite; numbers_used[0] is how many
    numbers were drawn. With `tolerance` 0 all tokens take the general path, else those drawn nearer than that to a
    boundary.
    """
    W = lanes(w)
    d = decode_workspace(c, table, known, S, W)
    done, used, end = 0, 0, 0
    for i in range(count):
        begin, T = offsets[i], offsets[i + 1] - offsets[i]
        if numbers - used < max_length - T + 1:
            break
        for s in range(T):
            seen[s] = prompts[begin + s]
        short, past, first = 0, 0, T
        while max_length >= T:
            token, gap = 0, 0.0
            if tolerance > 0:
                while short < T:
                    step(c, w, retyped(wt, w), d, S, seen[short], short)
                    short += 1
                token, gap = draw(d.logits, c.V, temperature, uniform[used], e)
            if gap <= tolerance:
                while past < T:
                    new = first if past == 0 else 1
                    columns = (new + W - 1) // W * W
                    t = lay_out(c, plan, trace, panels, new, columns, 1, S, W)
                    span[1], span[3] = new + 1, past
                    rows = Rows(seen + past, span, 0, 1, 0, False, 0, 0, False)
                    cache = Cache(keys, values, ld, ld, W, span + 2, span + 3, True)
                    forward(c, plan, settled(w, wt, True, False), rows, t, cache, cos, sin, ldr, new, columns, new - 1)
                    past += new
                    token, gap = draw(t.logits, c.V, temperature, uniform[used], e)
            if token < 0:
                return -1
            used += 1
            if token == stop:
                break
            seen[T] = token
            out[end] = token
            T, end = T + 1, end + 1
        done, ends[i + 1], numbers_used[0] = i + 1, end, used
    return done
