"""What Python calls: a whole block of optimizer steps, or the next tokens of one row, each one compiled call."""

from __future__ import annotations

import math
from typing import Any

from microgpt.engines.fused import layout
from microgpt.engines.fused.adam import FEW, MANY, Update, Weights, adam, settled, squares
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import (
    LINE,
    NEAR,
    NEARBY,
    Bytes,
    Cache,
    Doubles,
    Ints,
    Operands,
    P,
    Rows,
    Shape,
    Tokens,
)
from microgpt.engines.fused.passes import backward, cross_entropy, forward
from microgpt.engines.fused.simd.intrinsics import meet
from microgpt.engines.fused.simd.matmul import add, zero
from microgpt.engines.fused.simd.vectors import lanes

LONG = 64  # positions from which on a row is worth a product of its own

lay_out = inline(layout.lay_out)


@jit
def share(begin: int, end: int, unit: int, me: int, crew: int) -> Any:
    """The part of begin .. end, in whole units, that thread `me` of `crew` takes."""
    units = (end - begin + unit - 1) // unit
    return begin + units * me // crew * unit, min(end, begin + units * (me + 1) // crew * unit)


@jit
def share_rows(offsets: P, begin: int, end: int, part: int, crew: int) -> int:
    """The first of the rows begin .. end that lies behind `part` of `crew` equal shares of their tokens."""
    tokens = (offsets[end] - offsets[begin]) * part
    row = begin
    while row < end and (offsets[row] - offsets[begin]) * crew < tokens:
        row += 1
    return row


@jit
def stand_alone(c: Shape, offsets: P, begin: int, end: int) -> bool:
    """Whether every row is worth a product of its own that gives attention what stays near."""
    for row in range(begin, end):
        T = offsets[row + 1] - offsets[row] - 1
        if T < LONG or 2 * T * c.Dp > NEARBY:
            return False
    return True


def train(
    c: Shape, tokens: Tokens, offsets: Ints, steps: Ints, count_steps: int, scored: Bytes, first_step: int,
    micro_batch_size: int, columns: int, seed: int, w: P, wts: P, dws: P, m: P, v: P, room: P, room_size: int,
    operands: Operands, operands_size: int, S: int, cos: P, sin: P, ldr: int, b1: float, b2: float, eps: float,
    clip: float, rates: Doubles, losses: Doubles, learning: bool, me: int, crew: int, together: Ints, sums: Doubles,
) -> int:  # fmt: skip
    """The losses of every step, with `learning` its update too; returns their number, up to one not finite.

    This is thread `me` of `crew`, which share the counter `together` and `sums`, and each have a gradient dw, weights
    wt to turn where a step takes several passes, a room of `room_size` and one of `operands_size`. A thread takes some
    rows of a step, then some weights. What is added up is added in the order of the threads. With one thread, the
    update of a large model's layers waits for the next step's first pass, but for none in another call.
    """
    W, mine = lanes(w), room + room_size * me
    late, due = crew == 1 and FEW <= c.n < MANY, False
    u = Update(b1, b2, eps, 1.0, 0.0, 0.0, 0.0)
    none = Cache(w, w, 0, 0, False)
    dw, panels = dws + c.n * me, operands + operands_size * me
    for i in range(count_steps):
        begin, end = steps[i], steps[i + 1]
        count = 0
        for at in range(offsets[begin], offsets[end]):
            count += scored[at]
        weight = 1.0 / max(1, count)
        loss, norm = 0.0, 0.0
        adding, turned = False, False
        alone = stand_alone(c, offsets, begin, end)
        low, stop = begin, end
        if crew > 1:
            low, stop = share_rows(offsets, begin, end, me, crew), share_rows(offsets, begin, end, me + 1, crew)
        while low < stop and offsets[stop] - offsets[stop - 1] < 2:  # so that the last pass has positions
            stop -= 1
        if due:
            due = offsets[end] - offsets[begin] > end - begin
            adam(u, w, dws, m, v, c.layer if due else c.n)  # what is not a layer's is read at once
        while low < stop:
            high, N, NT = low, 0, 0
            while high < stop and (micro_batch_size == 0 or high - low < micro_batch_size):
                T = offsets[high + 1] - offsets[high] - 1
                ld = (T + W - 1) // W * W
                if high > low and NT + ld > columns:
                    break
                high, N, NT = high + 1, N + T, NT + ld
            if N > 0:
                t = lay_out(c, mine, panels, N, NT, S, W)
                rows = Rows(tokens, offsets, low, high, begin, learning and c.dropout > 0, seed, first_step + i, alone)
                k = Weights(w, wts + c.n * me, turned, high < stop, due, u, dws, m, v)
                forward(c, k, rows, t, none, cos, sin, ldr, N, NT)
                turned, due = True, False
                loss += cross_entropy(c, rows, scored, weight, t.logits, t.dlogits)
                if learning:
                    norm = backward(c, w, dw, rows, t, cos, sin, ldr, N, NT, adding, late and high == stop)
                    adding = True
            low = high
        if learning and not adding:  # no position at all
            zero(dw, c.n)
        if crew > 1:
            sums[me * LINE] = loss
            meet(together, crew)
            loss = 0.0
            for other in range(crew):
                loss += sums[other * LINE]
        if learning:
            begin, end = share(0, c.n, W, me, crew)
            if crew == 1 and not late:
                norm = squares(dws, c.n)
            if crew > 1:
                for low in range(begin, end, NEAR):  # added up, and squared while they are near
                    high = min(end, low + NEAR)
                    for other in range(1, crew):
                        add(dws + (other * c.n + low), dws + low, high - low)
                    norm += squares(dws + low, high - low)
                sums[me * LINE + 1] = norm
                meet(together, crew)
                norm = 0.0
                for other in range(crew):
                    norm += sums[other * LINE + 1]
            norm = math.sqrt(norm)
            if not math.isfinite(loss + norm):
                losses[i] = math.nan if math.isfinite(loss) else loss
                return i + 1
            scale = clip / norm if clip > 0 and norm > clip else 1.0
            u = Update(b1, b2, eps, scale, rates[3 * i], rates[3 * i + 1], rates[3 * i + 2])
            due = late and i + 1 < count_steps
            if not due:
                adam(u, w + begin, dws + begin, m + begin, v + begin, end - begin)
        losses[i] = loss
        if crew > 1:
            meet(together, crew)
    return count_steps


def decode(
    c: Shape, tokens: Tokens, T: int, w: P, wt: P, room: P, panels: Operands, S: int, cos: P, sin: P,
    ldr: int, keys: P, values: P, ld: int, past: int, span: Ints, logits: P,
) -> int:  # fmt: skip
    """Logits (T, V) of one row's next tokens after the `past` positions in the cache; `span` holds 0 and T + 1."""
    W = lanes(w)
    NT = (T + W - 1) // W * W
    t = lay_out(c, room, panels, T, NT, S, W)
    rows = Rows(tokens, span, 0, 1, 0, False, 0, 0, False)
    forward(c, settled(w, wt, True, False), rows, t, Cache(keys, values, ld, past, True), cos, sin, ldr, T, NT)
    for n in range(T):
        for j in range(c.V):
            logits[n * c.V + j] = t.logits[n * c.Vs + j]
    return past + T
