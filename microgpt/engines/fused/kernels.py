"""What Python calls: a whole block of optimizer steps, or the next tokens of one row, each one compiled call.

Compiled code is kept in the user's cache folder, in a folder of its own for every version of these sources and of
Numba; Numba itself keeps the kernels of different CPUs apart and writes each file whole.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import platformdirs
from numba import njit
from numba.core import config

from microgpt.engines.fused.halves import room_for_halves
from microgpt.engines.fused.memory import NEAR, Cache, P, Rows, Shape, lay_out
from microgpt.engines.fused.passes import backward, cross_entropy, forward
from microgpt.engines.fused.products import add, zero
from microgpt.engines.fused.tiles import PAIR
from microgpt.engines.fused.vectors import (
    fma,
    inverse,
    jit,
    lanes,
    load,
    meet,
    once,
    plain,
    pointer,
    root,
    splat,
    store,
    total,
)  # fmt: skip

LINE = 16  # float64s from one thread's sums to the next, so that no two share a cache line


def entry(function: Callable[..., Any]) -> Any:
    """Compile at the first call and keep the result on disk where there is a folder to keep it in."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.sha256("".join([numba.__version__, *(f.read_text("utf-8") for f in sources)]).encode())
    root = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir("microgpt")
    before = config.CACHE_DIR
    config.CACHE_DIR = str(Path(root) / "kernels" / version.hexdigest()[:16])
    try:
        return njit(function, error_model="numpy", nogil=True, cache=True)
    except RuntimeError:  # no folder can be written
        return njit(function, error_model="numpy", nogil=True)
    finally:
        config.CACHE_DIR = before


@jit
def squares(x: P, n: int) -> float:
    """The sum of x[:n]^2: a few thousand at a time in the vector's dtype, those sums in float64."""
    W = lanes(x)
    whole = 0.0
    for low in range(0, n, 4096):
        high = min(n, low + 4096)
        a, b, c, d = splat(x, 0.0), splat(x, 0.0), splat(x, 0.0), splat(x, 0.0)
        tail = high - (high - low) % (4 * W)
        for i in range(low, tail, 4 * W):
            a = fma(load(x, i), load(x, i), a)
            b = fma(load(x, i + W), load(x, i + W), b)
            c = fma(load(x, i + 2 * W), load(x, i + 2 * W), c)
            d = fma(load(x, i + 3 * W), load(x, i + 3 * W), d)
        for i in range(tail, high, W):
            a = fma(load(x, i), load(x, i), a)
        whole += total((a + b) + (c + d))
    return whole


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


class Update(NamedTuple):
    """What one step of Adam needs beside the vectors."""

    b1: float
    b2: float
    eps: float
    scale: float  # of the gradient, from clipping
    decay: float  # learning rate times weight decay
    rate: float  # learning rate / (1 - beta1^k)
    fix: float  # 1 / (1 - beta2^k)


@jit
def adam(u: Update, w: P, g: P, m: P, v: P, n: int) -> None:
    """microgpt.optim.adam of n weights, in place."""
    once()
    tiny = splat(w, 2.0**-126)  # keeps the root's argument normal, far below what eps lets through
    c1, c2 = (1.0 - u.b1) * u.scale, (1.0 - u.b2) * u.scale * u.scale
    for i in range(0, n, lanes(w)):
        d, x = load(g, i), load(w, i)
        mean = fma(load(m, i), u.b1, d * c1)
        square = fma(d * c2, d, load(v, i) * u.b2)
        store(m, i, mean)
        store(v, i, square)
        if u.decay > 0:
            x = fma(x, -u.decay, x)
        store(w, i, fma(mean * -u.rate, inverse(root(fma(square, u.fix, tiny)) + u.eps), x))


@entry
def train(
    c: Shape, tokens: Any, offsets: Any, steps: Any, scored: Any, first_step: int, rows_a_pass: int, columns: int,
    seed: int, w_: Any, dw_: Any, m_: Any, v_: Any, room: Any, panels_: Any, S: int, cos_: Any, sin_: Any, ldr: int,
    b1: float, b2: float, eps: float, clip: float, rates: Any, losses: Any, learning: bool, me: int, crew: int,
    meeting: Any, sums_: Any,
) -> int:  # fmt: skip
    """The losses of every step, with `learning` its update too; returns their number, up to one not finite.

    This is thread `me` of `crew`, which share `meeting` and `sums`, and have a gradient dw and room each: a thread
    takes some rows of a step, then some weights. What is added up is added in the order of the threads.
    """
    w, dws, m, v = pointer(w_), pointer(dw_), pointer(m_), pointer(v_)
    cos, sin, W = pointer(cos_), pointer(sin_), lanes(w)
    none = Cache(w, w, 0, 0, False)
    tokens_, offsets_, scored_ = pointer(tokens), pointer(offsets), pointer(scored)
    sums, together, mine = pointer(sums_), pointer(meeting), pointer(room) + len(room) // crew * me
    dw, panels = dws + c.n * me, pointer(panels_) + len(panels_) // crew * me
    for i in range(len(steps) - 1):
        begin, end = steps[i], steps[i + 1]
        count = 0
        for at in range(offsets[begin], offsets[end]):
            count += scored[at]
        weight = 1.0 / max(1, count)
        loss = 0.0
        adding = False
        low, stop = begin, end
        if crew > 1:
            low, stop = share_rows(offsets_, begin, end, me, crew), share_rows(offsets_, begin, end, me + 1, crew)
        while low < stop:
            high, N, NT = low, 0, 0
            while high < stop and (rows_a_pass == 0 or high - low < rows_a_pass):
                T = offsets[high + 1] - offsets[high] - 1
                ld = (T + W - 1) // W * W
                if high > low and NT + ld > columns:
                    break
                high, N, NT = high + 1, N + T, NT + ld
            if N > 0:
                t = lay_out(c, mine, panels, N, NT, S, W)
                rows = Rows(tokens_, offsets_, low, high, begin, learning and c.dropout > 0, seed, first_step + i)
                forward(c, w, w, plain(False), rows, t, none, cos, sin, ldr, N, NT)
                loss += cross_entropy(c, rows, scored_, weight, t.logits, t.dlogits)
                if learning:
                    backward(c, w, dw, rows, t, cos, sin, ldr, N, NT, adding)
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
            for other in range(1, crew):
                add(dws + (other * c.n + begin), dws + begin, end - begin)
            norm = squares(dws + begin, end - begin)
            if crew > 1:
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
            u = Update(b1, b2, eps, scale, rates[i, 0], rates[i, 1], rates[i, 2])
            adam(u, w + begin, dws + begin, m + begin, v + begin, end - begin)
        losses[i] = loss
        if crew > 1:
            meet(together, crew)
    return len(steps) - 1


@entry
def proceed(
    c: Shape, tokens: Any, offsets: Any, w_: Any, wt_: Any, room: Any, panels_: Any, S: int, cos_: Any, sin_: Any, ldr: int,
    keys: Any, values: Any, ld: int, past: int, logits: Any,
) -> None:  # fmt: skip
    """Logits (T, V) of one row's next tokens after the `past` positions in the cache."""
    w, wt = pointer(w_), pointer(wt_)
    T = len(tokens)
    W = lanes(w)
    NT = (T + W - 1) // W * W
    t = lay_out(c, pointer(room), pointer(panels_), T, NT, S, W)
    rows = Rows(pointer(tokens), pointer(offsets), 0, 1, 0, False, 0, 0)
    cache = Cache(pointer(keys), pointer(values), ld, past, True)
    forward(c, w, wt, plain(True), rows, t, cache, pointer(cos_), pointer(sin_), ldr, T, NT)
    for n in range(T):
        for j in range(c.V):
            logits[n, j] = t.logits[n * c.Vp + j]


def panels(matrix: np.ndarray, rows: int, columns: int, wide: int) -> Iterator[tuple[int, np.ndarray]]:
    """A flat (rows, columns) matrix that lies in panels: the first column of each, and its view (rows, width)."""
    for j in range(0, columns, wide):
        width = min(wide, columns - j)
        yield j, matrix[j * rows : j * rows + rows * width].reshape(rows, width)


def turn(c: Shape, w: np.ndarray, wide: int, halves: bool) -> np.ndarray:
    """w with every matrix (out, in) as (in, out); in NumPy, since it is done once and need not be compiled.

    With `halves` as words (in / 2, out) of two bfloat16s, at the beginning of the matrix's place.
    """
    D, F, wt = c.Dp, c.Fp, empty(c.n, w.dtype)
    blocks = [(c.head, c.Vp, D)]
    for i in range(c.layers):
        at = c.layer + i * c.step
        blocks += [(at, 3 * D, D), (at + c.wo, D, D), (at + c.fc1, F, D), (at + c.fc2, D, F)]
    for at, fan_out, fan_in in blocks:
        for j, part in panels(w[at:], fan_out, fan_in, wide):
            for i, turned in panels(wt[at:], fan_in // (1 + halves), fan_out, wide):
                block = part[i : i + turned.shape[1]].T
                j_, block = (j // 2, pair_rows_of(block)) if halves else (j, block)
                turned[j_ : j_ + len(block)] = block
    return wt


def pair_rows_of(x: np.ndarray) -> np.ndarray:
    """Words of neighbours in the columns of x (rows, columns), each rounded to the nearest bfloat16."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1)
    return (bits[::2] >> 16 | bits[1::2] & 0xFFFF0000).view(np.float32)


def room_size(c: Shape, N: int, columns: int, S: int, W: int) -> int:
    """Numbers that a trace takes."""
    return int(lay_out.py_func(c, 0, 0, N, columns, S, W).end)


def panels_size(c: Shape, N: int, W: int, halves: bool) -> int:
    """Numbers or words that the operands of a linear layer of N positions take."""
    if halves:
        return room_for_halves(N, c.Dp, c.Fp, c.Vp, W)
    return N * c.Fp + PAIR * W * (max(c.Fp, 3 * c.Dp) + W) + NEAR


def empty(n: int, dtype: str | np.dtype[Any]) -> np.ndarray:
    """n zeros that begin at a cache line."""
    raw = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n * np.dtype(dtype).itemsize].view(dtype)
