"""Linear layers, forward and backward: products of matrices that prefetch the next operands. Legend: layout.py."""

from __future__ import annotations

from numba import types

from microgpt.engines.fused.adam import Weights, part_of, prefetch_rows, update_rows
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import LEFT, Matrix, P, Stored
from microgpt.engines.fused.plan import PAIR, Plan
from microgpt.engines.fused.simd.bfloat16 import (
    as_pairs,
    depth,
    for_operands,
    input_back_bf16,
    linear_bf16,
    rows_of_panels,
    transposed_rows,
    weights_back_bf16,
)
from microgpt.engines.fused.simd.int8 import begin, quantise
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import (
    copy,
    multiply,
    multiply_columns,
    multiply_prefetching,
    quarters,
    stride,
    transpose_rows,
)
from microgpt.engines.fused.simd.tiles import ROWS
from microgpt.engines.fused.simd.vectors import lanes, numbers


def left(x: P, M: int, K: int, workspace: P, w: Stored) -> tuple[P, int, int]:
    """Rows (M, K) of x as the left operand of a product with w: unchanged; their stride; numbers per row."""
    return x, stride(K, lanes(x)), K


def left_int8(x: P, M: int, K: int, workspace: P, w: Stored) -> tuple[P, int, int]:
    """As pairs of int16s (M, K / 2), each row with its scale behind, in the workspace; see simd/int8.py."""
    noinline()
    W = lanes(x)
    y, ldx, ldy = as_pairs(workspace), stride(K, W), stride(K // 2 + W, W)
    for i in range(M):
        quantise(x + i * ldx, y + i * ldy, K)
    return y, ldy, K // 2


for_operands(left, left_int8, types.int16)


def linear(plan: Plan, x: P, k: Weights, a: Matrix, then: Matrix, y: P, N: int, adding: bool, workspace: P) -> None:
    """y = x W^T, or added to y: (N, in), (out, in) -> (N, out), with W the matrix `a`; `then` is the next one read.

    W is transposed here, part by part, after its update if one is due, unless wt holds it already.
    """
    W, wide = lanes(y), PAIR * lanes(y)
    ldx, ldy = stride(a.fan_in, W), stride(a.fan_out, W)
    if k.transposed:
        w = begin(k.wt, y, a.at)
        rows, ld, K = left(x, N, a.fan_in, workspace, w)
        multiply(rows, ld, w, 0, y, ldy, N, K, a.fan_out, adding)
    else:
        part = part_of(plan.near, a.fan_in, wide)
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            if k.due:
                update_rows(k, a, o, width)
            columns = numbers(k.wt, y) + (a.at + o * a.fan_in) if k.keep else workspace
            transpose_rows(k.w + a.at, columns, a.fan_out, a.fan_in, o, width)
            if a.fan_in * a.fan_out <= plan.near or plan.prefetch == 0:
                multiply(x, ldx, columns, 0, y + o, ldy, N, a.fan_in, width, adding)
            else:
                prefetch = prefetch_rows(k, a, o + width, part, then, part_of(plan.near, then.fan_in, wide))
                multiply_prefetching(x, ldx, columns, 0, y + o, ldy, N, a.fan_in, width, adding, False, prefetch)


@jit
def project(
    plan: Plan, x: P, k: Weights, a: Matrix, then: Matrix, y: P, ld: int, T: int, again: bool, more: bool, workspace: P
) -> None:
    """y (out, ld) = W x^T of one row x (T, in), with positions in the lanes as attention reads them; see linear.

    W's rows are kept in the workspace if `more` rows follow, and read from there if they are used `again`.
    """
    noinline()
    wide, K = PAIR * lanes(y), depth(a.fan_in, workspace)
    columns = workspace + a.fan_out * K
    transposed_rows(x, stride(a.fan_in, lanes(y)), T, a.fan_in, columns)
    if again:
        part = max(wide, plan.deep // K // wide * wide)  # that stays in the level 2 cache for all positions
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            multiply(workspace + o * K, K, columns, 0, y + o * ld, ld, width, K, ld, False)
    else:
        part = part_of(plan.near, K, wide)
        for o in range(0, a.fan_out, part):
            width, rows = min(part, a.fan_out - o), workspace + o * K if more else workspace
            if k.due:
                update_rows(k, a, o, width)
            rows_of_panels(k.w + a.at, a.fan_out, a.fan_in, o, width, rows)
            first = part_of(plan.near, depth(then.fan_in, workspace), wide)
            prefetch = prefetch_rows(k, a, o + width, part, then, first)
            multiply_prefetching(rows, K, columns, 0, y + o * ld, ld, width, K, ld, False, False, prefetch)


def weights_back(
    plan: Plan, dy: P, x: P, dw: P, N: int, fan_in: int, fan_out: int, adding: bool, workspace: P
) -> None:  # fmt: skip
    """dW = dy^T x, or added to dW, `plan.depth` positions at a time; `plan.pack`: see there."""
    ldy, ldx = stride(fan_out, lanes(dy)), stride(fan_in, lanes(dy))
    small = N * max(fan_in, fan_out) <= plan.near
    left, right = fan_in >= plan.pack and not small, fan_out >= plan.pack and not small
    if not left and not right and plan.depth >= N:
        multiply_columns(dy, ldy, x, ldx, dw, 0, fan_out, N, fan_in, adding)
    else:
        by_blocks(plan.depth, left, right, dy, ldy, x, ldx, dw, N, fan_in, fan_out, adding, workspace)


@jit
def by_blocks(
    depth: int, left: bool, right: bool, dy: P, ldy: int, x: P, ldx: int, dw: P, N: int, fan_in: int, fan_out: int,
    adding: bool, workspace: P,
) -> None:  # fmt: skip
    """dW = dy^T x, or added to dW, `depth` positions at a time, with a copy of the `left` or `right` operand in panels.

    A tile reads a few numbers of each of many positions: one after the other in a panel, else a row's stride apart.
    """
    noinline()
    wide, tall = PAIR * lanes(x), LEFT * ROWS
    depth = max(1, depth)  # a range whose step may be 0 would bring the text of an exception into the code
    for n in range(0, N, depth):
        K = min(depth, N - n)
        xs, dys = x + n * ldx, dy + n * ldy
        if right:
            for j in range(0, fan_in, wide):
                copy_block(xs + j, ldx, workspace + j * K, K, min(wide, fan_in - j))
        height = tall if left else max(1, fan_out)
        for i in range(0, fan_out, height):
            rows, M, ld = dys + i, min(height, fan_out - i), ldy
            if left:
                rows, ld = workspace + fan_in * K, M
                copy_block(dys + i, ldy, rows, K, M)
            for j in range(0, fan_in, wide):
                width = min(wide, fan_in - j)
                panel, ldp = (workspace + j * K, width) if right else (xs + j, ldx)
                to = dw + (j * fan_out + i * width)
                multiply_columns(rows, ld, panel, ldp, to, width, M, K, width, adding or n > 0)


@jit
def copy_block(x: P, ldx: int, y: P, M: int, N: int) -> None:
    """y (M, N) = x (M, ldx), without gaps; N whole vectors."""
    noinline()
    for i in range(M):
        copy(x + i * ldx, y + i * N, N)


def input_back(plan: Plan, dy: P, w: P, dx: P, N: int, fan_in: int, fan_out: int, x: P, workspace: P) -> None:
    """dx = dy W. Prefetches W and x (N, in)."""
    ldy, ldx = stride(fan_out, lanes(dy)), stride(fan_in, lanes(dy))
    if N * fan_in <= plan.near or plan.prefetch == 0:
        multiply(dy, ldy, w, 0, dx, ldx, N, fan_out, fan_in, False)
    else:
        prefetch = quarters(x, min(N, plan.deep // fan_in), fan_in, ldx)
        multiply_prefetching(dy, ldy, w, 0, dx, ldx, N, fan_out, fan_in, False, True, prefetch)


for_operands(linear, linear_bf16)
for_operands(weights_back, weights_back_bf16)
for_operands(input_back, input_back_bf16)


@inline
def linear_back(
    plan: Plan, dy: P, x: P, w: P, dw: P, dx: P, N: int, fan_in: int, fan_out: int, adding: bool, workspace: P
) -> None:
    """dx = dy W; dW = dy^T x, or added to dW."""
    input_back(plan, dy, w, dx, N, fan_in, fan_out, x, workspace)
    weights_back(plan, dy, x, dw, N, fan_in, fan_out, adding, workspace)
