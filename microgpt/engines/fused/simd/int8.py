"""Weights in int8, as products of a decoding engine read them: a quarter of float32's bytes. Legend: layout.py.

A pair of int8s is stored in 16 bits: neighbours along the direction in which a product sums. A matrix (in / 2, out) of
pairs lies in panels, see matmul.py. Behind the last row of a panel stand the float32 scales of its columns, which take
the bytes of SCALE_ROWS more rows. state.py fills the panels.

The left operand of a product is quantised just before: each row as pairs of int16s in 32 bits, behind which its float32
scale stands. The products are summed in int32, without rounding, so every CPU has the same sums, in whatever order; a
sum becomes float32 once, and is multiplied by its column's scale, then by its row's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from microgpt.engines.fused.jit.functions import builder, jit
from microgpt.engines.fused.layout import SCALE_ROWS, P
from microgpt.engines.fused.simd.exp import MAGIC
from microgpt.engines.fused.simd.intrinsics import (
    I16,
    I32,
    INT,
    Vector,
    bits_of,
    effect,
    everywhere,
    noinline,
    operation,
    write,
)
from microgpt.engines.fused.simd.vectors import fold, lanes, load, numbers, splat

LARGEST = 127  # magnitude of an int8 of the weights
MAX_INT16, MAX_INT32 = 2**15 - 1, 2**31 - 1
TINY = 1e-30  # the largest number of a row counts as this at least: a row of zeros needs a scale too


@builder
def panel_rows(typing: Any, w: Any, K: Any) -> Any:
    """Rows that a panel of K rows takes in memory."""
    more = SCALE_ROWS if w.dtype == types.int16 else 0
    return types.intp(w, types.intp), lambda context, b, sig, args: b.add(args[1], INT(more))


@builder
def begin(typing: Any, w: Any, like: Any, at: Any) -> Any:
    """Where the matrix begins that is at `at` in the flat vector of numbers `like`; see state.arranged."""
    W = Vector(like.dtype).lanes

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        at = args[2]
        if w.dtype == types.int16:
            at = b.add(b.sdiv(at, INT(2)), b.mul(b.sdiv(at, INT(W)), INT(SCALE_ROWS)))
        return b.gep(args[0], [at])

    return w(w, like, types.intp), emit


def _larger(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The larger of two vectors of magnitudes; compared as integers, one that is not a number is the largest."""
    kind = ir.VectorType(I32, x.type.count)
    return b.select(b.icmp_signed("<", b.bitcast(x, kind), b.bitcast(y, kind)), y, x)


@operation()
def larger(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The larger of x >= 0 and the magnitude of y; where either is not a number, that."""
    kind = ir.VectorType(I32, y.type.count)
    bits = b.and_(b.bitcast(y, kind), ir.Constant(kind, [MAX_INT32] * kind.count))
    return _larger(b, x, b.bitcast(bits, y.type))


@operation(scalar=True)
def top(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The largest of the lanes, none of which is negative; one that is not a number is the largest."""
    return fold(b, x, _larger)


@builder
def store_integers(typing: Any, p: Any, i: Any, x: Any) -> Any:
    """Pairs p[i:] = the numbers of x, up to 2^15, rounded to int16s, two per pair: half a vector of pairs.

    Others, such as those that are not numbers, give some integer: the scale of their row is not finite.
    """
    if not isinstance(x, Vector):
        return None

    def build(b: ir.IRBuilder, p: ir.Value, i: ir.Value, x: ir.Value) -> None:
        shifted = b.fadd(x, everywhere(x.type, MAGIC[bits_of(x.type)]))
        low = b.trunc(b.bitcast(shifted, ir.VectorType(I32, x.type.count)), ir.VectorType(I16, x.type.count))
        write(b, low, p, i)

    return effect(types.void(p, types.intp, x), build)


@jit
def quantise(x: P, y: P, n: int) -> None:
    """Pairs y (n / 2) of int16s = x (n) / scale, rounded, and behind them the scale; n whole vectors.

    The largest magnitude becomes the largest int16 with which a sum of n products with int8s fits into an int32.
    """
    noinline()
    high = splat(x, TINY)
    for i in range(0, n, lanes(x)):
        high = larger(high, load(x, i))
    largest, limit = top(high), min(MAX_INT16, MAX_INT32 // (LARGEST * n))
    for i in range(0, n, lanes(x)):
        store_integers(y, i // 2, load(x, i) * (limit / largest))
    numbers(y, x)[n // 2] = largest / limit
