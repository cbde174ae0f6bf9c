"""Whole sequences in one compiled call, one after another: what Python does token by token, kept near.

The plain way is `forward` with a cache. Small models take a shorter one: channels in the lanes, and everything that
depends on a token and its position alone is looked up. Its logits may differ in the last digits, so a draw that falls
near the edge between two tokens is made again the plain way: the sequences are the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from microgpt.engines.fused.kernels import entry
from microgpt.engines.fused.memory import Cache, P, Rows, Shape, lay_out, place
from microgpt.engines.fused.passes import activate, forward, rmsnorm
from microgpt.engines.fused.tiles import PAIR
from microgpt.engines.fused.vectors import (
    exp,
    fma,
    group_sum,
    inline,
    inverse,
    jit,
    lanes,
    largest,
    load,
    maximum,
    once,
    plain,
    pointer,
    splat,
    store,
    total,
)  # fmt: skip


@jit
def draw(logits: P, V: int, temperature: float, uniform: float, e: P) -> Any:
    """microgpt.generate.draw at a temperature, and how far the draw was from an edge, as a share of the mass.

    In float64; e is room for V numbers in whole vectors.
    """
    once()
    if temperature == 0:
        best = 0
        for j in range(V):
            if logits[j] > logits[best]:
                best = j
        return best, 1.0
    W = lanes(e)
    for j in range(V):
        e[j] = logits[j]
    for j in range(V, (V + W - 1) // W * W):
        e[j] = -math.inf
    high = splat(e, -math.inf)
    for j in range(0, V, W):
        z = load(e, j) / temperature
        store(e, j, z)
        high = maximum(high, z)
    top = largest(high)
    sums = splat(e, 0.0)
    for j in range(0, V, W):
        odds = exp(load(e, j) - top)
        store(e, j, odds)
        sums = sums + odds
    whole = total(sums)
    reach, mass, token = uniform * whole, e[0], 0
    while mass <= reach and token < V - 1:
        token += 1
        mass += e[token]
    return token, min(mass - reach, reach - mass + e[token] if token else 1.0 * whole) / whole


@jit
def combine(x: P, w: P, K: int, N: int, j: int) -> Any:
    """The vector of x w at column j, with w (K, N) in panels, K a multiple of four: four sums at once hide how long one
    takes."""
    once()
    W = lanes(x)
    ld, w = min(PAIR * W, N - j + j % (PAIR * W)), w + place(0, j, K, N, W)
    a, b, c, d = splat(x, 0.0), splat(x, 0.0), splat(x, 0.0), splat(x, 0.0)
    for k in range(0, K, 4):
        a = fma(splat(x, x[k]), load(w, k * ld), a)
        b = fma(splat(x, x[k + 1]), load(w, (k + 1) * ld), b)
        c = fma(splat(x, x[k + 2]), load(w, (k + 2) * ld), c)
        d = fma(splat(x, x[k + 3]), load(w, (k + 3) * ld), d)
    return (a + b) + (c + d)


class Desk(NamedTuple):
    """What the short way works on."""

    table: P  # (V, S, 4 Dp): the residual stream and layer 0's query, key, value of a token at a position
    known: P  # which of them are computed already
    keys: P  # (layers, S, Dp), as values
    values: P
    x: P
    n: P
    mix: P
    h: P
    r: P
    p: P
    logits: P


@inline
def desk(c: Shape, p: P, known: P, S: int, W: int) -> Desk:
    """The places from p on."""
    D = c.Dp
    keys = p + c.V * S * 4 * D
    values = keys + c.layers * S * D
    x = values + c.layers * S * D
    n = x + D
    mix = n + 3 * D
    h = mix + D
    r = h + c.Fp
    scores = r + W
    return Desk(p, known, keys, values, x, n, mix, h, r, scores, scores + S * W)


def desk_size(c: Shape, S: int, W: int) -> int:
    """Numbers that the short way works on."""
    return int(desk.py_func(c, 0, 0, S, W).logits) + c.Vp


@inline
def look_up(c: Shape, w: P, wt: P, d: Desk, S: int, token: int, at: int) -> P:
    """The table's entry, computed the first time."""
    once()
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
def step(c: Shape, w: P, wt: P, d: Desk, S: int, token: int, at: int) -> None:
    """The logits of one more token at position `at`: `forward` of the one token after a cache of the others."""
    once()
    D, F, W = c.Dp, c.Fp, lanes(w)
    scale = 1.0 / math.sqrt(c.size)
    entry_ = look_up(c, w, wt, d, S, token, at)
    for j in range(0, D, W):
        store(d.x, j, load(entry_, j))
    qkv = entry_ + D
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
                e = exp(load(d.p, s * W) - high)
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
            z = c.softcap - 2.0 * c.softcap / (1.0 + exp(z * (2.0 / c.softcap)))
        store(d.logits, j, z)


@entry
def write(
    c: Shape, prompts: Any, offsets: Any, room: int, temperature: float, uniform: Any, stop: int, w_: Any, wt_: Any,
    desk_: Any, known_: Any, near: float, trace: Any, panels: Any, S: int, cos_: Any, sin_: Any, ldr: int, keys: Any, values: Any,
    ld: int, odds: Any, seen: Any, span: Any, out: Any, ends: Any,
) -> Any:  # fmt: skip
    """Sequences after the prompts, drawn with `uniform` in turn, into out; ends[i + 1] is where the i-th ends.

    Returns how many sequences were written and numbers taken, up to where the numbers might not suffice for one more.
    With `near` 0 all goes the plain way, else draws nearer than that to an edge.
    """
    w, wt, e, seen_, span_ = pointer(w_), pointer(wt_), pointer(odds), pointer(seen), pointer(span)
    cos, sin, W = pointer(cos_), pointer(sin_), lanes(w)
    d = desk(c, pointer(desk_), pointer(known_), S, W)
    used, end = 0, 0
    for i in range(len(offsets) - 1):
        begin, T = offsets[i], offsets[i + 1] - offsets[i]
        if len(uniform) - used < room - T + 1:
            return i, used
        for s in range(T):
            seen[s] = prompts[begin + s]
        told, past, first = 0, 0, T
        while room >= T:
            token, gap = 0, 0.0
            if near > 0:
                while told < T:
                    step(c, w, wt, d, S, seen[told], told)
                    told += 1
                token, gap = draw(d.logits, c.V, temperature, uniform[used], e)
            if gap <= near:
                while past < T:
                    count = first if past == 0 else 1
                    columns = (count + W - 1) // W * W
                    t = lay_out(c, pointer(trace), pointer(panels), count, columns, S, W)
                    span[1] = count + 1
                    rows = Rows(seen_ + past, span_, 0, 1, 0, False, 0, 0)
                    cache = Cache(pointer(keys), pointer(values), ld, past, True)
                    forward(c, w, wt, plain(True), rows, t, cache, cos, sin, ldr, count, columns)
                    past += count
                    token, gap = draw(t.logits + (count - 1) * c.Vp, c.V, temperature, uniform[used], e)
            used += 1
            if token == stop:
                break
            seen[T] = token
            out[end] = token
            T, end = T + 1, end + 1
        ends[i + 1] = end
    return len(offsets) - 1, used
