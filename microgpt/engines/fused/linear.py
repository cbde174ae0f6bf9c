"""Linear layers, forth and back: whole products, and what they bring nearer for the next."""

from __future__ import annotations

from microgpt.engines.fused.adam import Weights, coming, part_of, update_rows
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import BLOCK, NEAR, NEARBY, PAIR, Matrix, P
from microgpt.engines.fused.simd.bfloat16 import (
    depth,
    for_room,
    input_back_halves,
    linear_halves,
    rows_of_panels,
    turned_rows,
    weights_back_halves,
)
from microgpt.engines.fused.simd.intrinsics import once
from microgpt.engines.fused.simd.matmul import apart, multiply, multiply_bringing, multiply_columns, quarters, turn_rows
from microgpt.engines.fused.simd.vectors import lanes


def linear(x: P, k: Weights, a: Matrix, then: Matrix, y: P, N: int, adding: bool, room: P) -> None:
    """y = x W^T, or added to y: (N, in), (out, in) -> (N, out), with W the matrix `a`; `then` is read next.

    Unless W lies turned, it is turned here, after its update if one is due, a part at a time.
    """
    W, wide = lanes(y), PAIR * lanes(y)
    ldx, ldy = apart(a.fan_in, W), apart(a.fan_out, W)
    if k.turned:
        multiply(x, ldx, k.wt + a.at, 0, y, ldy, N, a.fan_in, a.fan_out, adding)
    else:
        part = part_of(a.fan_in, wide)
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            if k.due:
                update_rows(k, a, o, width)
            columns = k.wt + (a.at + o * a.fan_in) if k.keep else room
            turn_rows(k.w + a.at, columns, a.fan_out, a.fan_in, o, width)
            if a.fan_in * a.fan_out <= NEAR:
                multiply(x, ldx, columns, 0, y + o, ldy, N, a.fan_in, width, adding)
            else:
                ahead = coming(k, a, o + width, part, then, part_of(then.fan_in, wide))
                multiply_bringing(x, ldx, columns, 0, y + o, ldy, N, a.fan_in, width, adding, False, ahead)


@jit
def project(x: P, k: Weights, a: Matrix, then: Matrix, y: P, ld: int, T: int, again: bool, more: bool, room: P) -> None:
    """y (out, ld) = W x^T of one row x (T, in): positions lie in the lanes, as attention takes them; see linear.

    W's rows stay in the room where `more` rows of the pass come, for which they lie there `again`.
    """
    once()
    wide, K = PAIR * lanes(y), depth(a.fan_in, room)
    columns = room + a.fan_out * K
    turned_rows(x, apart(a.fan_in, lanes(y)), T, a.fan_in, columns)
    if again:
        part = max(wide, NEARBY // K // wide * wide)  # that stays near for all positions
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            multiply(room + o * K, K, columns, 0, y + o * ld, ld, width, K, ld, False)
    else:
        part = part_of(K, wide)
        for o in range(0, a.fan_out, part):
            width, rows = min(part, a.fan_out - o), room + o * K if more else room
            if k.due:
                update_rows(k, a, o, width)
            rows_of_panels(k.w + a.at, a.fan_out, a.fan_in, o, width, rows)
            ahead = coming(k, a, o + width, part, then, part_of(depth(then.fan_in, room), wide))
            multiply_bringing(rows, K, columns, 0, y + o * ld, ld, width, K, ld, False, False, ahead)


def weights_back(dy: P, x: P, dw: P, N: int, fan_in: int, fan_out: int, adding: bool, room: P) -> None:
    """dW = dy^T x, or added to dW."""
    ldy, ldx = apart(fan_out, lanes(dy)), apart(fan_in, lanes(dy))
    if N <= BLOCK:
        multiply_columns(dy, ldy, x, ldx, dw, 0, fan_out, N, fan_in, adding)
    else:
        by_blocks(dy, ldy, x, ldx, dw, N, fan_in, fan_out, adding)


@jit
def by_blocks(dy: P, ldy: int, x: P, ldx: int, dw: P, N: int, fan_in: int, fan_out: int, adding: bool) -> None:
    """dW = dy^T x, or added to dW, BLOCK positions at a time."""
    once()
    for n in range(0, N, BLOCK):
        count = min(BLOCK, N - n)
        multiply_columns(dy + n * ldy, ldy, x + n * ldx, ldx, dw, 0, fan_out, count, fan_in, adding or n > 0)


def input_back(dy: P, w: P, dx: P, N: int, fan_in: int, fan_out: int, x: P, room: P) -> None:
    """dx = dy W. Meanwhile W comes nearer, and x (N, in)."""
    ldy, ldx = apart(fan_out, lanes(dy)), apart(fan_in, lanes(dy))
    if N * fan_in <= NEAR:
        multiply(dy, ldy, w, 0, dx, ldx, N, fan_out, fan_in, False)
    else:
        ahead = quarters(x, min(N, NEARBY // fan_in), fan_in, ldx)
        multiply_bringing(dy, ldy, w, 0, dx, ldx, N, fan_out, fan_in, False, True, ahead)


for_room(linear, linear, words=False)
for_room(linear, linear_halves, words=True)
for_room(weights_back, weights_back, words=False)
for_room(weights_back, weights_back_halves, words=True)
for_room(input_back, input_back, words=False)
for_room(input_back, input_back_halves, words=True)


@inline
def linear_back(dy: P, x: P, w: P, dw: P, dx: P, N: int, fan_in: int, fan_out: int, adding: bool, room: P) -> None:
    """dx = dy W; dW = dy^T x, or added to dW."""
    input_back(dy, w, dx, N, fan_in, fan_out, x, room)
    weights_back(dy, x, dw, N, fan_in, fan_out, adding, room)
