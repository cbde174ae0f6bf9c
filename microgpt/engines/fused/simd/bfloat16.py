"""Products of bfloat16 numbers, summed in float32: those of the linear layers and of attention.

Two bfloat16s lie in a word: neighbours along the direction in which a product sums, so that one instruction adds both
products to a float32. What a product reads is rounded just before; weights, gradients and sums stay float32.
"""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import ir
from numba import types

from microgpt.engines.fused.adam import Weights, coming, part_of, update_rows
from microgpt.engines.fused.jit.functions import Function, builder, jit, overloads
from microgpt.engines.fused.layout import PAIR, Matrix, P
from microgpt.engines.fused.simd.intrinsics import I32, Vector, once, shuffle, to_bfloat16, to_bfloat16s, write
from microgpt.engines.fused.simd.matmul import (
    apart,
    copy,
    multiply,
    multiply_bringing,
    multiply_columns,
    quarters,
    transpose,
    turn,
)
from microgpt.engines.fused.simd.vectors import first, lanes, load, splat


def for_room(name: Function, function: Function, *, words: bool) -> None:
    """Let compiled code that calls `name` call `function` where its last argument points to words, or to numbers.

    Then only what an engine's dtype needs is compiled.
    """

    def choose(*given: Any) -> Function | None:
        return function if (given[-1].dtype == types.uint32) == words else None

    choose.__signature__ = inspect.signature(name)  # type: ignore[attr-defined]
    overloads(name, inlined=not words)(choose)


@builder
def store_pairs(typing: Any, p: Any, i: Any, x: Any) -> Any:
    """Words p[i:] = the numbers of x, two a word: half a vector of words."""
    if not isinstance(x, Vector):
        return None

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        write(b, to_bfloat16(b, args[2]), args[0], args[1])
        return context.get_dummy_value()

    return types.void(p, types.intp, x), emit


@builder
def store_two(typing: Any, p: Any, i: Any, x: Any, y: Any) -> Any:
    """Words p[i:] = the numbers of x, then those of y, two a word: a vector of words."""
    if not isinstance(x, Vector):
        return None

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        write(b, to_bfloat16s(b, args[2], args[3]), args[0], args[1])
        return context.get_dummy_value()

    return types.void(p, types.intp, x, x), emit


@builder
def store_zipped(typing: Any, p: Any, i: Any, x: Any, y: Any) -> Any:
    """Words p[i:] = the numbers of x and of y side by side: a vector of words."""
    if not isinstance(x, Vector):
        return None

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        count = args[2].type.count
        both = b.bitcast(to_bfloat16s(b, args[2], args[3]), ir.VectorType(ir.IntType(16), 2 * count))
        write(b, shuffle(b, both, both, [i // 2 + i % 2 * count for i in range(2 * count)]), args[0], args[1])
        return context.get_dummy_value()

    return types.void(p, types.intp, x, x), emit


@builder
def words(typing: Any, p: Any) -> Any:
    """The same address, of words."""

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return b.bitcast(args[0], I32.as_pointer())

    return types.CPointer(types.uint32)(p), emit


@jit
def pair_along(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """Words y (M, ldy) of neighbours in the rows of x (M, ldx), N numbers or whole vectors of them."""
    once()
    W = lanes(x)
    whole = N - N % (2 * W)
    for i in range(M):
        a, b = x + i * ldx, y + i * ldy
        for j in range(0, whole, 2 * W):
            store_two(b, j // 2, load(a, j), load(a, j + W))
        if whole < N:
            store_pairs(b, whole // 2, load(a, whole))


@jit
def pair_down(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """Words y (M / 2, ldy) of neighbours in the columns of x (M, ldx); the last of odd M goes with a zero."""
    once()
    for i in range(0, M - 1, 2):
        for j in range(0, N, lanes(x)):
            store_zipped(y, i // 2 * ldy + j, load(x, i * ldx + j), load(x, (i + 1) * ldx + j))
    if M % 2:
        for j in range(0, N, lanes(x)):
            store_zipped(y, M // 2 * ldy + j, load(x, (M - 1) * ldx + j), splat(x, 0.0))


@jit
def pair_panel(x: P, ldx: int, y: P, M: int) -> None:
    """`pair_down` of one panel of x, into a panel."""
    W, wide = lanes(x), PAIR * lanes(x)
    for i in range(0, M - 1, 2):
        a, b = x + i * ldx, y + i // 2 * wide
        store_zipped(b, 0, load(a, 0), load(a, ldx))
        store_zipped(b, W, load(a, W), load(a, ldx + W))
    if M % 2:
        pair_down(x + (M - 1) * ldx, ldx, y + M // 2 * wide, wide, 1, wide)


@jit
def pair_rows(w: P, y: P, turned: P, M: int, N: int, i: int, count: int) -> None:
    """Words turned (N / 2, count) of the rows i .. i + count of w (M, N), which lies in panels; N whole panels.

    `y` is room for half a panel of such rows.
    """
    once()
    wide = PAIR * lanes(w)
    for j in range(0, N, wide):
        pair_along(w + (j * M + i * wide), 0, y, 0, 1, count * wide)
        transpose(y, wide // 2, turned + j // 2 * count, count, count, wide // 2)


def operand(x: P, ld: int, M: int, N: int, room: P) -> P:
    """Columns (M, N) of x as a product along them takes them: as they are; N in whole vectors."""
    return x


def operand_halves(x: P, ld: int, M: int, N: int, room: P) -> P:
    """As words (M / 2, N), in the room."""
    once()
    pair_down(x, ld, room, ld, M, N)
    return room


def rows(x: P, ld: int, M: int, n: int, room: P) -> P:
    """Rows (M, n) of x as a product takes them on its left: as they are."""
    return x


def rows_halves(x: P, ld: int, M: int, n: int, room: P) -> P:
    """As words (M, ld / 2), in the room, with zeros behind them."""
    once()
    for i in range(M):
        for j in range(0, n, lanes(x)):
            store_pairs(room, (i * ld + j) // 2, first(n - j, load(x, i * ld + j), 0.0))
    return room


def turned_rows(x: P, ld: int, M: int, N: int, room: P) -> None:
    """Rows (M, N) of x as a product along them takes them on its right: turned, in panels, in the room."""
    turn(x, ld, room, M, N)


def turned_rows_halves(x: P, ld: int, M: int, N: int, room: P) -> None:
    """As words (N / 2, M), which lie behind at first; N whole panels."""
    once()
    half, columns = N // 2, (M + lanes(x) - 1) // lanes(x) * lanes(x)
    pair_along(x, ld, room + half * columns, half, M, N)
    turn(room + half * columns, half, room, M, half)


def rows_of_panels(w: P, M: int, N: int, i: int, count: int, room: P) -> None:
    """Rows i .. i + count of w (M, N), which lies in panels, as a product takes them on its left, in the room."""
    wide = PAIR * lanes(w)
    for j in range(0, N, wide):
        width = min(wide, N - j)
        for k in range(count):
            copy(w + (j * M + (i + k) * width), room + (k * N + j), width)


def rows_of_panels_halves(w: P, M: int, N: int, i: int, count: int, room: P) -> None:
    """As words (count, N / 2); N whole panels."""
    once()
    wide = PAIR * lanes(w)
    for j in range(0, N, wide):
        pair_along(w + (j * M + i * wide), wide, room + j // 2, N // 2, count, wide)


def depth(M: int, room: P) -> int:
    """Words, or numbers, that M numbers in the direction of a sum take."""
    return M


def depth_halves(M: int, room: P) -> int:
    """Two a word."""
    return (M + 1) // 2


for_room(operand, operand, words=False)
for_room(operand, operand_halves, words=True)
for_room(rows, rows, words=False)
for_room(rows, rows_halves, words=True)
for_room(turned_rows, turned_rows, words=False)
for_room(turned_rows, turned_rows_halves, words=True)
for_room(rows_of_panels, rows_of_panels, words=False)
for_room(rows_of_panels, rows_of_panels_halves, words=True)
for_room(depth, depth, words=False)
for_room(depth, depth_halves, words=True)


def linear_halves(x: P, k: Weights, a: Matrix, then: Matrix, y: P, N: int, adding: bool, room: P) -> None:
    """linear.linear; where W lies turned, it is of words."""
    once()
    W, wide, half = lanes(y), PAIR * lanes(y), a.fan_in // 2
    ldx, ldy = apart(half, W), apart(a.fan_out, W)
    pair_along(x, apart(a.fan_in, W), room, ldx, N, a.fan_in)
    if k.turned:
        multiply(room, ldx, words(k.wt + a.at), 0, y, ldy, N, half, a.fan_out, adding)
    else:
        b = room + (N * ldx + 2 * W)
        part = part_of(half, wide)
        y_room = b + half * part
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            if k.due:
                update_rows(k, a, o, width)
            columns = words(k.wt + a.at) + o * half if k.keep else b
            for i in range(o, o + width, wide):
                count = min(wide, o + width - i)
                pair_rows(k.w + a.at, y_room, columns + (i - o) * half, a.fan_out, a.fan_in, i, count)
            ahead = coming(k, a, o + width, part, then, part_of(then.fan_in // 2, wide))
            multiply_bringing(room, ldx, columns, 0, y + o, ldy, N, half, width, adding, False, ahead)


def weights_back_halves(dy: P, x: P, dw: P, N: int, fan_in: int, fan_out: int, adding: bool, room: P) -> None:
    """linear.weights_back."""
    once()
    W, half, wide = lanes(dw), (N + 1) // 2, PAIR * lanes(dw)
    a, lda = room, apart(fan_out, W)
    b = a + (half * lda + wide)
    pair_down(dy, lda, a, lda, N, fan_out)
    for j in range(0, fan_in, wide):
        pair_panel(x + j, apart(fan_in, W), b + j * half, N)
    multiply_columns(a, lda, b, 0, dw, 0, fan_out, half, fan_in, adding)


def input_back_halves(dy: P, w: P, dx: P, N: int, fan_in: int, fan_out: int, x: P, room: P) -> None:
    """linear.input_back."""
    once()
    W, out, wide = lanes(dx), fan_out // 2, PAIR * lanes(dx)
    a, lda = room, apart(out, W)
    b, panel = a + (N * lda + wide), fan_out * wide
    pair_along(dy, apart(fan_out, W), a, lda, N, fan_out)
    for j in range(0, fan_in, wide):
        pair_panel(w + j * fan_out, wide, b, fan_out)
        following = w + min(j + wide, fan_in - wide) * fan_out
        ahead = quarters(following, 4, panel // 4, panel // 4)
        multiply_bringing(a, lda, b, wide, dx + j, apart(fan_in, W), N, out, wide, False, False, ahead)
