"""The kernel of a whole block of optimizer steps. Legend: layout.py."""

from __future__ import annotations

import math
from typing import Any

from microgpt.engines.fused import layout
from microgpt.engines.fused.adam import Update, Weights, adam, squares
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import (
    LINE,
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
from microgpt.engines.fused.plan import Plan
from microgpt.engines.fused.simd.intrinsics import barrier
from microgpt.engines.fused.simd.matmul import add, zero
from microgpt.engines.fused.simd.vectors import lanes

lay_out = inline(layout.lay_out)


@jit
def share(begin: int, end: int, unit: int, thread: int, n_threads: int) -> Any:
    """The part of begin .. end, in whole units, that a thread of `n_threads` takes."""
    units = (end - begin + unit - 1) // unit
    return begin + units * thread // n_threads * unit, min(end, begin + units * (thread + 1) // n_threads * unit)


@jit
def share_rows(offsets: P, begin: int, end: int, part: int, n_threads: int) -> int:
    """The first of the rows begin .. end that lies behind `part` of `n_threads` equal shares of their tokens."""
    tokens = (offsets[end] - offsets[begin]) * part
    row = begin
    while row < end and (offsets[row] - offsets[begin]) * n_threads < tokens:
        row += 1
    return row


@jit
def all_long(c: Shape, plan: Plan, offsets: P, begin: int, end: int) -> bool:
    """Whether every row is so long that a product per row is worth it, and short enough to stay in the cache."""
    for row in range(begin, end):
        T = offsets[row + 1] - offsets[row] - 1
        if plan.long > T or 2 * T * c.Dp > plan.deep:
            return False
    return True


def train(
    c: Shape, plan: Plan, tokens: Tokens, offsets: Ints, steps: Ints, count_steps: int, scored: Bytes, first_step: int,
    micro_batch_size: int, columns: int, seed: int, w: P, wts: P, dws: P, m: P, v: P, workspace: P, workspace_size: int,
    operands: Operands, operands_size: int, S: int, cos: P, sin: P, ldr: int, b1: float, b2: float, eps: float,
    clip: float, rates: Doubles, losses: Doubles, learning: bool, thread: int, n_threads: int, arrivals: Ints,
    sums: Doubles,
) -> int:  # fmt: skip
    """The loss of every step and, if `learning`, its update; returns the number of losses, the last may not be finite.

    Behind the losses of all steps stand the norms of their gradients.

    One of `n_threads` threads. They share the counter `arrivals` and `sums`; each has a gradient dw, transposed
    weights wt (used with several micro-batches per step), a workspace and a part of `operands`. A thread computes some
    rows of a step, then updates some weights. Sums over threads are added in their order. With one thread, the update
    of a large model's layers is deferred to the next step's first micro-batch, but not beyond this call.
    """
    W, mine = lanes(w), workspace + workspace_size * thread
    deferred, due = n_threads == 1 and plan.min_deferred <= c.n < plan.max_deferred, False
    u = Update(b1, b2, eps, 1.0, 0.0, 0.0, 0.0)
    none = Cache(w, w, 0, 0, 0, offsets, offsets, False)
    dw, panels = dws + c.n * thread, operands + operands_size * thread
    for i in range(count_steps):
        begin, end = steps[i], steps[i + 1]
        count = 0
        for at in range(offsets[begin], offsets[end]):
            count += scored[at]
        weight = 1.0 / max(1, count)
        loss, norm = 0.0, 0.0
        adding, transposed = False, False
        separate = all_long(c, plan, offsets, begin, end)
        low, stop = begin, end
        if n_threads > 1:
            low = share_rows(offsets, begin, end, thread, n_threads)
            stop = share_rows(offsets, begin, end, thread + 1, n_threads)
        while low < stop and offsets[stop] - offsets[stop - 1] < 2:  # so that the last micro-batch has positions
            stop -= 1
        if due:
            due = offsets[end] - offsets[begin] > end - begin
            adam(u, w, dws, m, v, c.layer if due else c.n)  # embeddings are read at once
        while low < stop:
            high, N, NT = low, 0, 0
            while high < stop and (micro_batch_size == 0 or high - low < micro_batch_size):
                T = offsets[high + 1] - offsets[high] - 1
                ld = (T + W - 1) // W * W
                if high > low and NT + ld > columns:
                    break
                high, N, NT = high + 1, N + T, NT + ld
            if N > 0:
                t = lay_out(c, plan, mine, panels, N, NT, c.layers, S, W)
                rows = Rows(
                    tokens, offsets, low, high, begin, learning and c.dropout > 0, seed, first_step + i, separate
                )
                k = Weights(w, wts + c.n * thread, transposed, high < stop, due, u, dws, m, v)
                forward(c, plan, k, rows, t, none, cos, sin, ldr, N, NT, 0)
                transposed, due = True, False
                loss += cross_entropy(c, rows, scored, weight, t.logits, t.dlogits)
                if learning:
                    norm = backward(c, plan, w, dw, rows, t, cos, sin, ldr, N, NT, adding, deferred and high == stop)
                    adding = True
            low = high
        if learning and not adding:  # no position at all
            zero(dw, c.n)
        if n_threads > 1:
            sums[thread * LINE] = loss
            barrier(arrivals, n_threads)
            loss = 0.0
            for other in range(n_threads):
                loss += sums[other * LINE]
        if learning:
            begin, end = share(0, c.n, W, thread, n_threads)
            if n_threads == 1 and not deferred:
                norm = squares(dws, c.n)
            if n_threads > 1:
                piece = max(W, plan.near // W * W)  # whole vectors, or two pieces would both add those between them
                for low in range(begin, end, piece):  # added up, and squared while they are in the cache
                    high = min(end, low + piece)
                    for other in range(1, n_threads):
                        add(dws + (other * c.n + low), dws + low, high - low)
                    norm += squares(dws + low, high - low)
                sums[thread * LINE + 1] = norm
                barrier(arrivals, n_threads)
                norm = 0.0
                for other in range(n_threads):
                    norm += sums[other * LINE + 1]
            norm = math.sqrt(norm)
            losses[count_steps + i] = norm
            if not math.isfinite(loss + norm):
                losses[i] = math.nan if math.isfinite(loss) else loss
                return i + 1
            scale = clip / norm if clip > 0 and norm > clip else 1.0
            u = Update(b1, b2, eps, scale, rates[3 * i], rates[3 * i + 1], rates[3 * i + 2])
            due = deferred and i + 1 < count_steps
            if not due:
                adam(u, w + begin, dws + begin, m + begin, v + begin, end - begin)
        losses[i] = loss
        if n_threads > 1:
            barrier(arrivals, n_threads)
    return count_steps
