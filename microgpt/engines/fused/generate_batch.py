"""The kernel that generates many sequences at once, each with random numbers of its own. Legend: layout.py.

Linear layers treat a sequence as `forward` treats a position; in attention each lane is a sequence. When a sequence
ends, the next one takes its lane, so lanes are at different positions. Keys and values are stored in a ring of slots
that all lanes share; a lane reads those that are not older than its own sequence.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from microgpt.engines.fused import layout
from microgpt.engines.fused.activations import activate, softcap
from microgpt.engines.fused.attention import norm_head, rotate
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import FOUR, BatchWorkspace, Doubles, Ints, P, Shape, Tokens
from microgpt.engines.fused.passes import rmsnorm
from microgpt.engines.fused.plan import Plan
from microgpt.engines.fused.simd.exp import LOG2E, exp2
from microgpt.engines.fused.simd.intrinsics import BYTES, noinline
from microgpt.engines.fused.simd.matmul import (
    Prefetch,
    multiply,
    multiply_prefetching,
    place,
    transpose,
    transpose_back,
    zero,
)  # fmt: skip
from microgpt.engines.fused.simd.vectors import fma, lanes, load, maximum, positive, splat, store

FAR = 1e30  # subtracted from the score of a key of an earlier sequence: 2^-FAR is zero

round_up_4, batch_workspace = inline(layout.round_up_4), inline(layout.batch_workspace)


class Ring(NamedTuple):
    """The slots in use: from `low` up to the newest and, where the ring has wrapped around, from `rest` on."""

    slots: int
    slot: int  # the newest
    low: int
    rest: int


@jit
def score(size: int, n: int, q: P, k: P, low: int, high: int, newest: int, mine: Any, p: P, top: Any) -> Any:
    """Scores of slots low .. high, of which slot `newest` is the newest; returns the largest of them and `top`.

    `mine` is each lane's number of earlier positions.
    """
    noinline()
    W, none = lanes(q), splat(q, 0.0)
    begin = min(high, round_up_4(low))
    end = max(begin, high // FOUR * FOUR)
    for s in range(begin, end, FOUR):
        keys = k + s * size * W
        a, b, c, d = none, none, none, none
        for i in range(0, size * W, W):
            one, four = load(q, i // W * n), keys + i * FOUR
            a = fma(one, load(four, 0), a)
            b = fma(one, load(four, W), b)
            c = fma(one, load(four, 2 * W), c)
            d = fma(one, load(four, 3 * W), d)
        older = float(newest - s) - mine
        a = fma(maximum(none, older), -FAR, a)
        b = fma(maximum(none, older - 1.0), -FAR, b)
        c = fma(maximum(none, older - 2.0), -FAR, c)
        d = fma(maximum(none, older - 3.0), -FAR, d)
        store(p, s * W, a)
        store(p, s * W + W, b)
        store(p, s * W + 2 * W, c)
        store(p, s * W + 3 * W, d)
        top = maximum(top, maximum(maximum(a, b), maximum(c, d)))
    for part in range(2):  # the slots outside of whole fours
        for s in range(end if part else low, high if part else begin):
            keys, a = k + (s // FOUR * size * FOUR + s % FOUR) * W, none
            for i in range(size):
                a = fma(load(q, i * n), load(keys, i * FOUR * W), a)
            a = fma(maximum(none, float(newest - s) - mine), -FAR, a)
            store(p, s * W, a)
            top = maximum(top, a)
    return top


@jit
def mixture(
    ring: Ring, p: P, scale: float, top: Any, scores: bool, inverse: Any, v: P, y: P, n: int, count: int
) -> Any:  # fmt: skip
    """The first `count` of four channels y (4, n): values v (slots, 4, a vector) weighted by p and `inverse`.

    If p are `scores`, they are replaced by weights 2^(scale (score - top)), and `inverse` by 1 / their sum.
    """
    noinline()
    W, none = lanes(p), splat(p, 0.0)
    a, b, c, d, e, f, g, h, sums = none, none, none, none, none, none, none, none, none
    for part in range(2):
        low, high = (ring.rest, ring.slots) if part else (ring.low, ring.slot + 1)
        for s in range(
            low * W, (high - 1) * W, 2 * W
        ):  # two slots: eight independent sums hide the latency of an addition
            one, two, values = load(p, s), load(p, s + W), v + s * FOUR
            if scores:
                one, two = exp2((one - top) * scale), exp2((two - top) * scale)
                store(p, s, one)
                store(p, s + W, two)
                sums = sums + (one + two)
            a = fma(one, load(values, 0), a)
            b = fma(one, load(values, W), b)
            c = fma(one, load(values, 2 * W), c)
            d = fma(one, load(values, 3 * W), d)
            e = fma(two, load(values, 4 * W), e)
            f = fma(two, load(values, 5 * W), f)
            g = fma(two, load(values, 6 * W), g)
            h = fma(two, load(values, 7 * W), h)
        if (high - low) % 2:
            s = (high - 1) * W
            one, values = load(p, s), v + s * FOUR
            if scores:
                one = exp2((one - top) * scale)
                store(p, s, one)
                sums = sums + one
            a = fma(one, load(values, 0), a)
            b = fma(one, load(values, W), b)
            c = fma(one, load(values, 2 * W), c)
            d = fma(one, load(values, 3 * W), d)
    if scores:
        inverse = 1.0 / sums
    store(y, 0, (a + e) * inverse)
    if count > 1:
        store(y, n, (b + f) * inverse)
    if count > 2:
        store(y, 2 * n, (c + g) * inverse)
    if count > 3:
        store(y, 3 * n, (d + h) * inverse)
    return inverse


@inline
def mix_slots(size: int, n: int, q: P, k: P, v: P, y: P, at: P, p: P, ring: Ring) -> None:
    """Attention of one head, for the newest position of every lane: q, y (size, n).

    k (slots / 4, size, 4, a vector) and v (size / 4, slots, 4, a vector) are stored one after another for every vector
    of lanes; p is a workspace for one score per slot.
    """
    scale, W, slots = LOG2E / math.sqrt(size), lanes(q), ring.slots
    for j in range(0, n, W):
        mine, keys, values = load(at, j), k + j * slots * size, v + j * slots * round_up_4(size)
        top = score(size, n, q + j, keys, ring.low, ring.slot + 1, ring.slot, mine, p, splat(q, -FAR))
        top = score(size, n, q + j, keys, ring.rest, slots, ring.slot + slots, mine, p, top)
        inverse = top
        for i in range(0, size, FOUR):
            inverse = mixture(
                ring, p, scale, top, i == 0, inverse, values + i * slots * W, y + (i * n + j), n, size - i
            )  # fmt: skip


@inline
def choose(logits: P, V: int, n: int, temperature: float, uniform: P, drawn: P) -> None:
    """Draw a token per lane from logits (V, n) by its uniform number; the likeliest one at temperature 0.

    It is -1 where the largest logit is not finite.
    """
    one = splat(logits, 1.0)
    for j in range(0, n, lanes(logits)):
        high, best = load(logits, j), splat(logits, 0.0)
        for c in range(1, V):
            z = load(logits, c * n + j)
            if temperature == 0:
                best = best + positive(z - high, float(c) - best)
            high = maximum(high, z)
        if temperature > 0:
            sums = splat(logits, 0.0)
            for c in range(V):
                sums = sums + exp2((load(logits, c * n + j) - high) * (LOG2E / temperature))
                store(logits, c * n + j, sums)
            reach = load(uniform, j) * sums
            best = splat(logits, float(V))
            for c in range(V):
                best = best - positive(load(logits, c * n + j) - reach, one)
            high = sums
        store(drawn, j, best - positive(high - high, best + 1.0))  # a difference that is no number counts as positive


@inline
def keep(size: int, n: int, k: P, v: P, keys: P, values: P, ring: Ring) -> None:
    """Store the newest key and value of one head, (size, n), in their slot; see mix_slots."""
    W, slots, slot = lanes(k), ring.slots, ring.slot
    for i in range(size):
        to_k = ((slot // FOUR * size + i) * FOUR + slot % FOUR) * W
        to_v = ((i // FOUR * slots + slot) * FOUR + i % FOUR) * W
        for j in range(0, n, W):
            store(keys, j * slots * size + to_k, load(k, i * n + j))
            store(values, j * slots * round_up_4(size) + to_v, load(v, i * n + j))


@inline
def two_heads(x: P, head: int, rows: int, run: int, stride: int) -> Prefetch:
    """Prefetch keys or values of two heads, `head` numbers from one to the next: 2 rows of each."""
    return Prefetch(x, x + rows * stride, x + head, x + (head + rows * stride), rows, run, stride)


@inline
def proceed_all(
    c: Shape, plan: Plan, w: P, wt: P, n: int, d: BatchWorkspace, age: int, slot: int, slots: int, cos: P, sin: P,
    ldr: int,
) -> None:  # fmt: skip
    """Logits (Vp, n) of every lane's token at its position; `age` is that of the longest sequence."""
    D, F, W = c.Dp, c.Fp, lanes(w)
    seen, half = min(slots, age + 1), c.size // 2
    ring = Ring(slots, slot, max(0, slot + 1 - seen), slots - max(0, seen - slot - 1))
    if c.rope:
        for i in range(half):
            for j in range(n):
                spot = i * ldr + int(d.at[j])
                d.turns[i * n + j], d.turns[(half + i) * n + j] = cos[spot], sin[spot]
    for j in range(n):
        for i in range(0, D, W):
            x = load(w, c.wte + place(int(d.token[j]), i, c.Vp, D, W))
            if c.learned:
                x = x + load(w, c.wpe + place(int(d.at[j]), i, c.block, D, W))
            store(d.x, j * c.Ds + i, x)
    if c.norm_embedding:
        rmsnorm(d.x, d.x, d.r, n, c.D, D)
    zero(d.mixed + c.D * n, (D - c.D) * n)
    a_key, a_value, low = c.size * slots * n, round_up_4(c.size) * slots * n, ring.low * W
    # prefetch the first heads' keys and values during the products before them, unless all are in the cache
    run = (slot + 1) * W - low if (slot + 1 - ring.low) * c.size * n > plan.near else 0
    for i in range(c.layers):
        lw = wt + (c.layer + i * c.step)
        keys, values, next_keys = (
            d.keys + i * c.H * a_key, d.values + i * c.H * a_value, d.keys + (i + 1) % c.layers * c.H * a_key
        )  # fmt: skip
        rmsnorm(d.x, d.y, d.r, n, c.D, D)
        prefetch = two_heads(values + low * FOUR, a_value, c.size // (2 * FOUR), run * FOUR, slots * W * FOUR)
        multiply_prefetching(d.y, c.Ds, lw, 0, d.qkv, c.Qs, n, D, 3 * D, False, False, prefetch)
        transpose(d.qkv, c.Qs, d.heads, n, n, 3 * D)
        for head in range(c.H):
            q = d.heads + head * c.size * n
            k, v = q + D * n, q + 2 * D * n
            if c.rope:
                rotate(c.half, c.size, q, n, d.turns, d.turns + half * n, n, n)
                rotate(c.half, c.size, k, n, d.turns, d.turns + half * n, n, n)
            if c.qk_norm:
                norm_head(q, n, d.r, c.size, n)
                norm_head(k, n, d.r, c.size, n)
            keep(c.size, n, k, v, keys + head * a_key, values + head * a_value, ring)
            mix_slots(
                c.size, n, q, keys + head * a_key, values + head * a_value, d.mixed + head * c.size * n, d.at, d.p, ring
            )  # fmt: skip
        transpose_back(d.mixed, n, d.y, c.Ds, n, D)
        multiply(d.y, c.Ds, lw + c.wo, 0, d.x, c.Ds, n, D, D, True)
        rmsnorm(d.x, d.y, d.r, n, c.D, D)
        multiply(d.y, c.Ds, lw + c.fc1, 0, d.h, c.Fs, n, D, F, False)
        activate(c.activation, d.h, d.h, n * c.Fs)
        prefetch = two_heads(next_keys + low * c.size, a_key, 1, run * c.size // 2, run * c.size // 2)
        multiply_prefetching(d.h, c.Fs, lw + c.fc2, 0, d.x, c.Ds, n, F, D, True, False, prefetch)
    if c.final_norm:
        rmsnorm(d.x, d.x, d.r, n, c.D, D)
    multiply(d.x, c.Ds, wt + c.head, 0, d.z, c.Vs, n, D, c.Vp, False)
    transpose(d.z, c.Vs, d.logits, n, n, c.Vp)
    if c.softcap > 0:
        for j in range(0, c.V * n, W):
            store(d.logits, j, softcap(load(d.logits, j), c.softcap))


def generate_batch(
    c: Shape, plan: Plan, prompts: Tokens, offsets: Ints, count: int, max_length: int, temperature: float,
    uniform: Doubles, numbers: int, stop: int, w: P, wt: P, p: P, n: int, slots: int, cos: P, sin: P, ldr: int,
    owner: Ints, out: Tokens, lengths: Ints,
) -> int:  # fmt: skip
    """Generate `count` sequences on n lanes: lengths[i] tokens after prompt i into out (count, max_length).

    Sequence i draws from row i of `uniform` (count, numbers). Returns the number of tokens, -1 for logits that are not
    finite.
    """
    d = batch_workspace(c, p, n, slots, lanes(w))
    token, at, chance, drawn = d.token, d.at, d.chance, d.drawn
    digits = 24 if 4 * lanes(w) == BYTES else 53
    below = 1.0 - 0.5**digits  # the largest number below one: uniform numbers stay below one when rounded
    upcoming, running, slot, total = 0, 0, 0, 0
    for j in range(n):
        owner[j], token[j], at[j], chance[j] = -1, 0, 0, 0
        while owner[j] < 0 and upcoming < count:
            if offsets[upcoming + 1] - offsets[upcoming] <= max_length:
                owner[j], token[j] = upcoming, prompts[offsets[upcoming]]
                running += 1
            upcoming += 1
    while running > 0:
        age = 0
        for j in range(n):
            i = owner[j]
            if i >= 0:
                position = int(at[j])
                age = max(age, position)
                past = position + 1 - (offsets[i + 1] - offsets[i])
                chance[j] = min(uniform[i * numbers + past], below) if past >= 0 else 0.0
        proceed_all(c, plan, w, wt, n, d, age, slot, slots, cos, sin, ldr)
        choose(d.logits, c.V, n, temperature, chance, drawn)
        slot = slot + 1 if slot + 1 < slots else 0
        for j in range(n):
            i = owner[j]
            if i < 0:
                continue
            position = int(at[j]) + 1
            T = offsets[i + 1] - offsets[i]
            going = True
            if position >= T and drawn[j] < 0:
                return -1
            if position < T:
                token[j] = prompts[offsets[i] + position]
            else:
                new = min(int(drawn[j]), c.V - 1)
                going = new != stop
                if going:
                    out[i * max_length + position - T] = new
                    lengths[i] = position - T + 1
                    total += 1
                    token[j] = new
                    going = position < max_length
            at[j] = position
            if not going:
                running -= 1
                owner[j], at[j], token[j] = -1, 0, 0
                while owner[j] < 0 and upcoming < count:
                    if offsets[upcoming + 1] - offsets[upcoming] <= max_length:
                        owner[j], token[j] = upcoming, prompts[offsets[upcoming]]
                        running += 1
                    upcoming += 1
    return total
