"""Many sequences side by side, each with random numbers of its own: a sequence a lane.

Everything is `forward` with sequences where it has positions, (channels, lanes) in memory. Where one sequence ends the
lane takes the next, so lanes stand at different positions; keys and values go to the slots of a ring that all lanes
share, and a lane sees those that are younger than its own sequence.
"""

from __future__ import annotations

import math
from typing import Any

from microgpt.engines.fused.attention import rotate
from microgpt.engines.fused.building import inline, jit, once
from microgpt.engines.fused.compiler import entry
from microgpt.engines.fused.memory import NEAR, Doubles, Ints, P, Shape, Tokens
from microgpt.engines.fused.passes import activate
from microgpt.engines.fused.products import multiply
from microgpt.engines.fused.tiles import ROWS
from microgpt.engines.fused.vectors import exp, fma, lanes, load, maximum, near, positive, root, splat, store

AHEAD = 8  # slots from that which is read to that which is brought nearer
FAR = 1e30  # taken from the score of a key that is not the lane's own: e^-FAR is nothing beside any other


@jit
def norm(x: P, y: P, rows: int, n: int) -> None:
    """RMSNorm of (rows, n) over rows."""
    once()
    for j in range(0, n, lanes(x)):
        a, b = splat(x, 0.0), splat(x, 0.0)
        for i in range(0, rows - 1, 2):
            a = fma(load(x, i * n + j), load(x, i * n + j), a)
            b = fma(load(x, i * n + n + j), load(x, i * n + n + j), b)
        if rows % 2:
            a = fma(load(x, rows * n - n + j), load(x, rows * n - n + j), a)
        scale = 1.0 / root((a + b) * (1.0 / rows) + 1e-5)
        for i in range(rows):
            store(y, i * n + j, load(x, i * n + j) * scale)


@jit
def score(size: int, n: int, q: P, k: P, low: int, high: int, newest: int, mine: Any, p: P, top: Any) -> Any:
    """Scores of slots low .. high, the newest of which has number `newest`, and the largest of them and `top`."""
    once()
    W, none = lanes(q), splat(q, 0.0)
    for s in range(low, high - 1, 2):
        one = k + s * size * W
        two = one + size * W
        a, b = none, none
        for i in range(size):
            near(one, (i + AHEAD * size) * W)
            near(two, (i + AHEAD * size) * W)
            a = fma(load(q, i * n), load(one, i * W), a)
            b = fma(load(q, i * n), load(two, i * W), b)
        a = fma(maximum(none, float(newest - s) - mine), -FAR, a)
        b = fma(maximum(none, float(newest - s - 1) - mine), -FAR, b)
        store(p, s * W, a)
        store(p, s * W + W, b)
        top = maximum(top, maximum(a, b))
    if (high - low) % 2:
        s = high - 1
        a = none
        for i in range(size):
            a = fma(load(q, i * n), load(k, (s * size + i) * W), a)
        a = fma(maximum(none, float(newest - s) - mine), -FAR, a)
        store(p, s * W, a)
        top = maximum(top, a)
    return top


@inline
def mix_slots(size: int, n: int, q: P, k: P, v: P, y: P, at: P, p: P, slots: int, slot: int, age: int) -> None:
    """One head of the newest position of every lane: q, y (size, n); k (slots, size, a vector), v (size, slots, a
    vector), one after another for every vector of lanes.

    `slot` is the newest and `age` the position of the longest sequence; p is room for a score a slot.
    """
    scale, W = 1.0 / math.sqrt(size), lanes(q)
    # the slots in their order in memory: up to the newest, and at the end those of before the ring came round
    seen = min(slots, age + 1)
    first = max(0, slot + 1 - seen)
    rest = slots - max(0, seen - slot - 1)
    for j in range(0, n, W):
        mine = load(at, j)
        k_, v_ = k + j * slots * size, v + j * slots * size
        top = score(size, n, q + j, k_, first, slot + 1, slot, mine, p, splat(q, -FAR))
        top = score(size, n, q + j, k_, rest, slots, slot + slots, mine, p, top)
        sums = splat(q, 0.0)
        for part in range(2):
            low, high = (rest, slots) if part else (first, slot + 1)
            for s in range(low, high):
                e = exp((load(p, s * W) - top) * scale)
                store(p, s * W, e)
                sums = sums + e
        inverse = 1.0 / sums
        run, whole = slots * W, size - size % 4
        for i in range(0, whole, 4):  # four channels share a weight
            a, b, c, d = splat(q, 0.0), splat(q, 0.0), splat(q, 0.0), splat(q, 0.0)
            for part in range(2):
                low, high = (rest, slots) if part else (first, slot + 1)
                for s in range(low * W, high * W, W):
                    e, kept = load(p, s), v_ + (i * run + s)
                    a = fma(e, load(kept, 0), a)
                    b = fma(e, load(kept, run), b)
                    c = fma(e, load(kept, 2 * run), c)
                    d = fma(e, load(kept, 3 * run), d)
            store(y, i * n + j, a * inverse)
            store(y, (i + 1) * n + j, b * inverse)
            store(y, (i + 2) * n + j, c * inverse)
            store(y, (i + 3) * n + j, d * inverse)
        for i in range(whole, size):
            a = splat(q, 0.0)
            for part in range(2):
                low, high = (rest, slots) if part else (first, slot + 1)
                for s in range(low * W, high * W, W):
                    a = fma(load(p, s), load(v_, i * run + s), a)
            store(y, i * n + j, a * inverse)


@inline
def choose(logits: P, V: int, n: int, temperature: float, uniform: P, drawn: P) -> None:
    """A token for every lane from logits (V, n), by its uniform number; the likeliest at temperature 0."""
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
                sums = sums + exp((load(logits, c * n + j) - high) * (1.0 / temperature))
                store(logits, c * n + j, sums)
            reach = load(uniform, j) * sums
            best = splat(logits, float(V))
            for c in range(V):
                best = best - positive(load(logits, c * n + j) - reach, one)
        store(drawn, j, best)


@jit
def product(w: P, ld: int, x: P, y: P, n: int, M: int, K: int, adding: bool) -> None:
    """y (M, n) = W x, or added to y: (M, ld), (K, n). Meanwhile the rows that come next are brought nearer.

    What follows in memory is the next matrix.
    """
    once()
    part = max(1, NEAR // (ld * ROWS)) * ROWS
    for i in range(0, M, part):
        rows = min(part, M - i)
        for at in range(0, rows * ld, lanes(w)):
            near(w, (i + rows) * ld + at)
        multiply(w + i * ld, ld, x, n, y + i * n, n, rows, K, n, adding)


@inline
def proceed_all(
    c: Shape, w: P, n: int, token: P, at: P, x: P, y: P, keys: P, values: P, slots: int, slot: int, age: int, cos: P,
    sin: P, ldr: int, logits: P,
) -> None:  # fmt: skip
    """Logits (V, n) of every lane's token at its position."""
    D, F, W = c.D, 4 * c.D, lanes(w)
    qkv, mix = y + D * n, y + 4 * D * n
    h, turns, p = y + 5 * D * n, y + (5 * D + F) * n, y + (6 * D + F) * n
    if c.rope:
        for i in range(c.size // 2):
            for j in range(n):
                place = i * ldr + int(at[j])
                turns[i * n + j], turns[(c.size // 2 + i) * n + j] = cos[place], sin[place]
    for j in range(n):
        row = w + (c.wte + int(token[j]) * c.Dp)
        for d in range(D):
            x[d * n + j] = row[d]
        if c.learned:
            row = w + (c.wpe + int(at[j]) * c.Dp)
            for d in range(D):
                x[d * n + j] += row[d]
    if c.norm_embedding:
        norm(x, x, D, n)
    for i in range(c.layers):
        lw, k, v = w + (c.layer + i * c.step), keys + i * slots * D * n, values + i * slots * D * n
        norm(x, y, D, n)
        for part in range(3):
            product(lw + part * c.Dp * c.Dp, c.Dp, y, qkv + part * D * n, n, D, D, False)
        for head in range(c.H):
            q, new = qkv + head * c.size * n, qkv + (D + head * c.size) * n
            if c.rope:
                rotate(c.half, c.size, q, n, turns, turns + c.size // 2 * n, n, n)
                rotate(c.half, c.size, new, n, turns, turns + c.size // 2 * n, n, n)
            if c.qk_norm:
                norm(q, q, c.size, n)
                norm(new, new, c.size, n)
            k_, v_ = k + head * c.size * slots * n, v + head * c.size * slots * n
            for d in range(c.size):
                for j in range(0, n, W):
                    store(k_, j * slots * c.size + (slot * c.size + d) * W, load(new, d * n + j))
                    store(v_, j * slots * c.size + (d * slots + slot) * W, load(new, (D + d) * n + j))
            mix_slots(c.size, n, q, k_, v_, mix + head * c.size * n, at, p, slots, slot, age)
        product(lw + c.wo, c.Dp, mix, x, n, D, D, True)
        norm(x, y, D, n)
        product(lw + c.fc1, c.Dp, y, h, n, F, D, False)
        activate(c.activation, h, h, F * n)
        product(lw + c.fc2, c.Fp, h, x, n, D, F, True)
    if c.final_norm:
        norm(x, x, D, n)
    product(w + c.head, c.Dp, x, logits, n, c.V, D, False)
    if c.softcap > 0:
        for j in range(0, c.V * n, W):
            store(logits, j, c.softcap - 2.0 * c.softcap / (1.0 + exp(load(logits, j) * (2.0 / c.softcap))))


@entry
def write_all(
    c: Shape, prompts: Tokens, offsets: Ints, count: int, room: int, temperature: float, uniform: Doubles, numbers: int,
    stop: int, w: P, p: P, n: int, slots: int, cos: P, sin: P, ldr: int, owner: Ints, out: Tokens, lengths: Ints,
) -> None:  # fmt: skip
    """Sequence i of `count` after prompt i into out (count, room), lengths[i] of them, on n lanes.

    Each is drawn with a line of its own of `uniform` (count, numbers).
    """
    D = c.D
    token, at, chance, drawn, x = p, p + n, p + 2 * n, p + 3 * n, p + 4 * n
    logits = x + D * n
    keys = logits + c.V * n
    values = keys + c.layers * slots * D * n
    y = values + c.layers * slots * D * n
    coming, running, slot = 0, 0, 0
    for j in range(n):
        owner[j], token[j], at[j], chance[j] = -1, 0, 0, 0
        while owner[j] < 0 and coming < count:
            if offsets[coming + 1] - offsets[coming] <= room:
                owner[j], token[j] = coming, prompts[offsets[coming]]
                running += 1
            coming += 1
    while running > 0:
        age = 0
        for j in range(n):
            i = owner[j]
            if i >= 0:
                position = int(at[j])
                age = max(age, position)
                past = position + 1 - (offsets[i + 1] - offsets[i])
                chance[j] = uniform[i * numbers + past] if past >= 0 else 0.0
        proceed_all(c, w, n, token, at, x, y, keys, values, slots, slot, age, cos, sin, ldr, logits)
        choose(logits, c.V, n, temperature, chance, drawn)
        slot = slot + 1 if slot + 1 < slots else 0
        for j in range(n):
            i = owner[j]
            if i < 0:
                continue
            position = int(at[j]) + 1
            T = offsets[i + 1] - offsets[i]
            going = True
            if position < T:
                token[j] = prompts[offsets[i] + position]
            else:
                new = min(int(drawn[j]), c.V - 1)
                going = new != stop
                if going:
                    out[i * room + position - T] = new
                    lengths[i] = position - T + 1
                    token[j] = new
                    going = position < room
            at[j] = position
            if not going:
                running -= 1
                owner[j], at[j], token[j] = -1, 0, 0
                while owner[j] < 0 and coming < count:
                    if offsets[coming + 1] - offsets[coming] <= room:
                        owner[j], token[j] = coming, prompts[offsets[coming]]
                        running += 1
                    coming += 1
