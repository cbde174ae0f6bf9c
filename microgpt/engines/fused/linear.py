"""Linear layers, forward and backward: products of matrices that prefetch the next operands. Legend: layout.py."""

from __future__ import annotations

from microgpt.engines.fused.adam import Weights, part_of, prefetch_rows, update_rows
from microgpt.engines.fused.jit.functions import inline, jit
from microgpt.engines.fused.layout import BLOCK, L1_SIZE, L2_SIZE, PAIR, Matrix, P
from microgpt.engines.fused.simd.bfloat16 import (
    depth,
    for_operands,
    input_back_bf16,
    linear_bf16,
    rows_of_panels,
    transposed_rows,
    weights_back_bf16,
)
from microgpt.engines.fused.simd.intrinsics import noinline
from microgpt.engines.fused.simd.matmul import (
    multiply,
    multiply_columns,
    multiply_prefetching,
    quarters,
    stride,
    transpose_rows,
)
from microgpt.engines.fused.simd.vectors import lanes


def linear(x: P, k: Weights, a: Matrix, then: Matrix, y: P, N: int, adding: bool, workspace: P) -> None:
    """y = x W^T, or added to y: (N, in), (out, in) -> (N, out), with W the matrix `a`; `then` is the next one read.

    W is transposed here, part by part, after its update if one is due, unless wt holds it already.
    """
    W, wide = lanes(y), PAIR * lanes(y)
    ldx, ldy = stride(a.fan_in, W), stride(a.fan_out, W)
    if k.transposed:
        multiply(x, ldx, k.wt + a.at, 0, y, ldy, N, a.fan_in, a.fan_out, adding)
    else:
        part = part_of(a.fan_in, wide)
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            if k.due:
                update_rows(k, a, o, width)
            columns = k.wt + (a.at + o * a.fan_in) if k.keep else workspace
            transpose_rows(k.w + a.at, columns, a.fan_out, a.fan_in, o, width)
            if a.fan_in * a.fan_out <= L1_SIZE:
                multiply(x, ldx, columns, 0, y + o, ldy, N, a.fan_in, width, adding)
            else:
                prefetch = prefetch_rows(k, a, o + width, part, then, part_of(then.fan_in, wide))
                multiply_prefetching(x, ldx, columns, 0, y + o, ldy, N, a.fan_in, width, adding, False, prefetch)


@jit
def project(
    x: P, k: Weights, a: Matrix, then: Matrix, y: P, ld: int, T: int, again: bool, more: bool, workspace: P
) -> None:
    """y (out, ld) = W x^T of one row x (T, in), with positions in the lanes as attention reads them; see linear.

    W's rows are kept in the workspace if `more` rows follow, and read from there if they are used `again`.
    """
    noinline()
    wide, K = PAIR * lanes(y), depth(a.fan_in, workspace)
    columns = workspace + a.fan_out * K
    transposed_rows(x, stride(a.fan_in, lanes(y)), T, a.fan_in, columns)
    if again:
        part = max(wide, L2_SIZE // K // wide * wide)  # that stays in the level 2 cache for all positions
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            multiply(workspace + o * K, K, columns, 0, y + o * ld, ld, width, K, ld, False)
    else:
        part = part_of(K, wide)
        for o in range(0, a.fan_out, part):
            width, rows = min(part, a.fan_out - o), workspace + o * K if more else workspace
            if k.due:
                update_rows(k, a, o, width)
            rows_of_panels(k.w + a.at, a.fan_out, a.fan_in, o, width, rows)
            prefetch = prefetch_rows(k, a, o + width, part, then, part_of(depth(then.fan_in, workspace), wide))
            multiply_prefetching(rows, K, columns, 0, y + o * ld, ld, width, K, ld, False, False, prefetch)


def weights_back(dy: P, x: P, dw: P, N: int, fan_in: int, fan_out: int, adding: bool, workspace: P) -> None:
    """dW = dy^T x, or added to dW."""
    ldy, ldx = stride(fan_out, lanes(dy)), stride(fan_in, lanes(dy))
    if N <= BLOCK:
        multiply_columns(dy, ldy, x, ldx, dw, 0, fan_out, N, fan_in, adding)
    else:
        by_blocks(dy, ldy, x, ldx, dw, N, fan_in, fan_out, adding)


@jit
def by_blocks(dy: P, ldy: int, x: P, ldx: int, dw: P, N: int, fan_in: int, fan_out: int, adding: bool) -> None:
    """dW = dy^T x, or added to dW, BLOCK positions at a time."""
    noinline()
    for n in range(0, N, BLOCK):
        count = min(BLOCK, N - n)
        multiply_columns(dy + n * ldy, ldy, x + n * ldx, ldx, dw, 0, fan_out, count, fan_in, adding or n > 0)


def input_back(dy: P, w: P, dx: P, N: int, fan_in: int, fan_out: int, x: P, workspace: P) -> None:
    """dx = dy W. Prefetches W and x (N, in)."""
    ldy, ldx = stride(fan_out, lanes(dy)), stride(fan_in, lanes(dy))
    if N * fan_in <= L1_SIZE:
        multiply(dy, ldy, w, 0, dx, ldx, N, fan_out, fan_in, False)
    else:
        prefetch = quarters(x, min(N, L2_SIZE // fan_in), fan_in, ldx)
        multiply_prefetching(dy, ldy, w, 0, dx, ldx, N, fan_out, fan_in, False, True, prefetch)


for_operands(linear, linear_bf16)
for_operands(weights_back, weights_back_bf16)
for_operands(input_back, input_back_bf16)


@inline
def linear_back(dy: P, x: P, w: P, dw: P, dx: P, N: int, fan_in: int, fan_out: int, adding: bool, workspace: P) -> None:
    """dx = dy W; dW = dy^T x, or added to dW."""
    input_back(dy, w, dx, N, fan_in, fan_out, x, workspace)
    weights_back(dy, x, dw, N, fan_in, fan_out, adding, workspace)
