"""Products of bfloat16 numbers, summed in float32: those of the linear layers and of attention. Legend: layout.py.

A pair of bfloat16s is stored in 32 bits: neighbours along the direction in which a product sums, so that one
instruction adds both products to a float32. Operands are rounded just before a product; weights, gradients and sums
stay float32.
"""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import ir
from numba import types

from microgpt.engines.fused.adam import Weights, part_of, prefetch_rows, update_rows
from microgpt.engines.fused.jit.functions import Function, builder, jit, overloads
from microgpt.engines.fused.layout import Matrix, P
from microgpt.engines.fused.plan import PAIR, Plan
from microgpt.engines.fused.simd.intrinsics import (
    I32,
    Vector,
    effect,
    noinline,
    shuffle,
    to_bfloat16,
    to_bfloat16s,
    write,
)
from microgpt.engines.fused.simd.matmul import (
    copy,
    multiply,
    multiply_columns,
    multiply_prefetching,
    quarters,
    stride,
    transpose,
    transpose_panels,
)
from microgpt.engines.fused.simd.vectors import first, lanes, load, splat


def for_operands(numbers: Function, pairs: Function, dtype: Any = types.uint32) -> None:
    """Let kernels that call `numbers` call `pairs` if the last argument points to pairs: of bfloat16s, or as `dtype`.

    So only the functions that a dtype uses are compiled.
    """

    def choose_numbers(*given: Any) -> Function | None:
        return numbers if given[-1].dtype != dtype else None

    def choose_pairs(*given: Any) -> Function | None:
        return pairs if given[-1].dtype == dtype else None

    for choose, inlined in ((choose_numbers, True), (choose_pairs, False)):
        choose.__signature__ = inspect.signature(numbers)  # type: ignore[attr-defined]
        overloads(numbers, inlined)(choose)


@builder
def store_pairs(typing: Any, p: Any, i: Any, x: Any) -> Any:
    """Pairs p[i:] = the numbers of x, two per pair: half a vector of pairs."""
    if not isinstance(x, Vector):
        return None
    return effect(types.void(p, types.intp, x), lambda b, p, i, x: write(b, to_bfloat16(b, x), p, i))


@builder
def store_two(typing: Any, p: Any, i: Any, x: Any, y: Any) -> Any:
    """Pairs p[i:] = the numbers of x, then those of y, two per pair: a vector of pairs."""
    if not isinstance(x, Vector):
        return None
    return effect(types.void(p, types.intp, x, x), lambda b, p, i, x, y: write(b, to_bfloat16s(b, x, y), p, i))


@builder
def store_zipped(typing: Any, p: Any, i: Any, x: Any, y: Any) -> Any:
    """Pairs p[i:] of a number of x and one of y each: a vector of pairs."""
    if not isinstance(x, Vector):
        return None

    def build(b: ir.IRBuilder, p: ir.Value, i: ir.Value, x: ir.Value, y: ir.Value) -> None:
        count = x.type.count
        both = b.bitcast(to_bfloat16s(b, x, y), ir.VectorType(ir.IntType(16), 2 * count))
        write(b, shuffle(b, both, both, [j // 2 + j % 2 * count for j in range(2 * count)]), p, i)

    return effect(types.void(p, types.intp, x, x), build)


@builder
def as_pairs(typing: Any, p: Any) -> Any:
    """The same address, of pairs."""
    return types.CPointer(types.uint32)(p), lambda context, b, sig, args: b.bitcast(args[0], I32.as_pointer())


@jit
def pair_along(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """Pairs y (M, ldy) of neighbours in the rows of x (M, ldx), N numbers, read up to the next whole vector."""
    noinline()
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
    """Pairs y (M / 2, ldy) of neighbours in the columns of x (M, ldx); for odd M the last one is paired with zero."""
    noinline()
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
def pair_rows(w: P, y: P, transposed: P, M: int, N: int, i: int, count: int) -> None:
    """Pairs `transposed` (N / 2, count) of rows i .. i + count of w (M, N) in panels; N whole panels.

    `y` is a workspace for half a panel of such rows.
    """
    noinline()
    wide = PAIR * lanes(w)
    for j in range(0, N, wide):
        pair_along(w + (j * M + i * wide), 0, y, 0, 1, count * wide)
        transpose(y, wide // 2, transposed + j // 2 * count, count, count, wide // 2)


def operand(x: P, ld: int, M: int, N: int, workspace: P) -> P:
    """Columns (M, N) of x as the right operand of a product: unchanged; N in whole vectors."""
    return x


def operand_bf16(x: P, ld: int, M: int, N: int, workspace: P) -> P:
    """As pairs (M / 2, N), in the workspace."""
    noinline()
    pair_down(x, ld, workspace, ld, M, N)
    return workspace


def rows(x: P, ld: int, M: int, n: int, workspace: P) -> P:
    """Rows (M, n) of x as the left operand of a product: unchanged."""
    return x


def rows_bf16(x: P, ld: int, M: int, n: int, workspace: P) -> P:
    """As pairs (M, ld / 2), in the workspace, followed by zeros."""
    noinline()
    for i in range(M):
        for j in range(0, n, lanes(x)):
            store_pairs(workspace, (i * ld + j) // 2, first(n - j, load(x, i * ld + j), 0.0))
    return workspace


def transposed_rows(x: P, ld: int, M: int, N: int, workspace: P) -> None:
    """Rows (M, N) of x as the right operand of a product: transposed, in panels, in the workspace."""
    transpose_panels(x, ld, workspace, M, N)


def transposed_rows_bf16(x: P, ld: int, M: int, N: int, workspace: P) -> None:
    """As pairs (N / 2, M); the workspace also holds them untransposed, behind; N whole panels."""
    noinline()
    half, columns = N // 2, (M + lanes(x) - 1) // lanes(x) * lanes(x)
    pair_along(x, ld, workspace + half * columns, half, M, N)
    transpose_panels(workspace + half * columns, half, workspace, M, half)


def rows_of_panels(w: P, M: int, N: int, i: int, count: int, workspace: P) -> None:
    """Rows i .. i + count of w (M, N) in panels as the left operand of a product, in the workspace."""
    wide = PAIR * lanes(w)
    for j in range(0, N, wide):
        width = min(wide, N - j)
        for k in range(count):
            copy(w + (j * M + (i + k) * width), workspace + (k * N + j), width)


def rows_of_panels_bf16(w: P, M: int, N: int, i: int, count: int, workspace: P) -> None:
    """As pairs (count, N / 2); N whole panels."""
    noinline()
    wide = PAIR * lanes(w)
    for j in range(0, N, wide):
        pair_along(w + (j * M + i * wide), wide, workspace + j // 2, N // 2, count, wide)


def depth(M: int, workspace: P) -> int:
    """Numbers, or pairs, that store M numbers in the direction of a sum."""
    return M


def depth_bf16(M: int, workspace: P) -> int:
    """Two per pair."""
    return (M + 1) // 2


for_operands(operand, operand_bf16)
for_operands(rows, rows_bf16)
for_operands(transposed_rows, transposed_rows_bf16)
for_operands(rows_of_panels, rows_of_panels_bf16)
for_operands(depth, depth_bf16)


def linear_bf16(
    plan: Plan, x: P, k: Weights, a: Matrix, then: Matrix, y: P, N: int, adding: bool, workspace: P
) -> None:
    """linear.linear; a transposed W is in pairs."""
    noinline()
    W, wide, half = lanes(y), PAIR * lanes(y), a.fan_in // 2
    ldx, ldy = stride(half, W), stride(a.fan_out, W)
    pair_along(x, stride(a.fan_in, W), workspace, ldx, N, a.fan_in)
    if k.transposed:
        multiply(workspace, ldx, as_pairs(k.wt + a.at), 0, y, ldy, N, half, a.fan_out, adding)
    else:
        b = workspace + (N * ldx + 2 * W)
        part = part_of(plan.near, half, wide)
        y_room = b + half * part
        for o in range(0, a.fan_out, part):
            width = min(part, a.fan_out - o)
            if k.due:
                update_rows(k, a, o, width)
            columns = as_pairs(k.wt + a.at) + o * half if k.keep else b
            for i in range(o, o + width, wide):
                count = min(wide, o + width - i)
                pair_rows(k.w + a.at, y_room, columns + (i - o) * half, a.fan_out, a.fan_in, i, count)
            prefetch = prefetch_rows(k, a, o + width, part, then, part_of(plan.near, then.fan_in // 2, wide))
            multiply_prefetching(workspace, ldx, columns, 0, y + o, ldy, N, half, width, adding, False, prefetch)


def weights_back_bf16(
    plan: Plan, dy: P, x: P, dw: P, N: int, fan_in: int, fan_out: int, adding: bool, workspace: P
) -> None:
    """linear.weights_back."""
    noinline()
    W, half, wide = lanes(dw), (N + 1) // 2, PAIR * lanes(dw)
    a, lda = workspace, stride(fan_out, W)
    b = a + (half * lda + wide)
    pair_down(dy, lda, a, lda, N, fan_out)
    for j in range(0, fan_in, wide):
        pair_panel(x + j, stride(fan_in, W), b + j * half, N)
    multiply_columns(a, lda, b, 0, dw, 0, fan_out, half, fan_in, adding)


def input_back_bf16(plan: Plan, dy: P, w: P, dx: P, N: int, fan_in: int, fan_out: int, x: P, workspace: P) -> None:
    """linear.input_back."""
    noinline()
    W, out, wide = lanes(dx), fan_out // 2, PAIR * lanes(dx)
    a, lda = workspace, stride(out, W)
    b, panel = a + (N * lda + wide), fan_out * wide
    pair_along(dy, stride(fan_out, W), a, lda, N, fan_out)
    for j in range(0, fan_in, wide):
        pair_panel(w + j * fan_out, wide, b, fan_out)
        following = w + min(j + wide, fan_in - wide) * fan_out
        prefetch = quarters(following, 4, panel // 4, panel // 4)
        multiply_prefetching(a, lda, b, wide, dx + j, stride(fan_in, W), N, out, wide, False, False, prefetch)
