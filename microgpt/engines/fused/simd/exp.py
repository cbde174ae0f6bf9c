"""Exponentials: powers of e and, in fewer instructions, of two."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from functools import cache
from math import e, factorial, inf, log2
from typing import Any

from llvmlite import ir

from microgpt.engines.fused.simd.intrinsics import BYTES, I32, bits_of, declare, everywhere, multiply_add, operation

LOG2E = 1.4426950408889634
LN2 = {32: (0.693359375, -2.12194440e-4), 64: (0.6931471803691238, 1.9082149292705877e-10)}  # high bits, rest
MAGIC = {32: 1.5 * 2**23, 64: 1.5 * 2**52}  # adding it rounds to an integer, which then lies in the low bits
DEGREE = {32: 6, 64: 11}
LIMIT = {32: 87.0, 64: 708.0}
FLOOR = I32(1)  # the rounding mode of an instruction: down


@cache
def series(degree: int, middle: float) -> list[float]:
    """Coefficients of 2^t for t up to 1/2 from `middle`.

    Taylor's series; each power above `degree` is replaced by the polynomial that differs from it by a multiple of
    Chebyshev's and so nowhere by much: "economization" (Lanczos, Applied Analysis, 1956, chapter VII).
    """
    from numpy.polynomial.chebyshev import cheb2poly

    with localcontext(Context(prec=50)):
        half, ln2, shift = Decimal("0.5"), Decimal(2).ln(), Decimal(middle)
        terms = [ln2**k / factorial(k) for k in range(degree + 9)]
        while len(terms) > degree + 1:
            n = len(terms) - 1
            chebyshev = [Decimal(int(each)) for each in cheb2poly([0] * n + [1])]
            last = terms.pop() * half**n / chebyshev[n]
            terms = [term - last * chebyshev[k] / half**k for k, term in enumerate(terms)]
        moved: list[Decimal] = []
        for term in reversed(terms):  # from powers of t - middle to those of t
            moved = [a - shift * b for a, b in zip([term, *moved], [*moved, Decimal(0)], strict=True)]
        return [float(Decimal(2) ** shift * each) for each in moved]


def _polynomial(b: ir.IRBuilder, t: ir.Value, middle: float, base: float) -> ir.Value:
    """base^t, for the powers of two that are up to 1/2 from 2^middle."""
    terms = [term * log2(base) ** k for k, term in enumerate(series(DEGREE[bits_of(t.type)], middle))]
    y = everywhere(t.type, terms.pop())
    while terms:
        y = multiply_add(b, y, t, everywhere(t.type, terms.pop()))
    return y


def _own(b: ir.IRBuilder, name: str, *args: Any) -> ir.Value:
    """An instruction of AVX-512 on all lanes, rounding as usual."""
    kind = args[0].type
    mask = ir.IntType(kind.count)
    given = [*args, args[0], mask(-1), I32(4)]
    name = f"llvm.x86.avx512.mask.{name}.p{'s' if bits_of(kind) == 32 else 'd'}.512"
    signature = ir.FunctionType(kind, [each.type for each in given])
    return b.call(declare(b.module, signature, name), given)


def _times_power(b: ir.IRBuilder, y: ir.Value, n: ir.Value, shifted: ir.Value) -> ir.Value:
    """y 2^n, where `shifted` holds the integer n in its low bits; one instruction with AVX-512."""
    kind, bits = y.type, bits_of(y.type)
    if BYTES == 64:
        return _own(b, "scalef", y, n)
    ints = ir.VectorType(ir.IntType(bits), kind.count)
    exponent = b.shl(b.bitcast(shifted, ints), everywhere(ints, 23 if bits == 32 else 52))
    return b.bitcast(b.add(b.bitcast(y, ints), exponent), kind)


def _between(b: ir.IRBuilder, x: ir.Value, low: float, high: float) -> ir.Value:
    """x, clamped to low .. high; NaN stays NaN."""
    least, most = everywhere(x.type, low), everywhere(x.type, high)
    x = b.select(b.fcmp_ordered("<", x, least), least, x)
    return x if high == inf else b.select(b.fcmp_ordered(">", x, most), most, x)


@operation()
def exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """e^x within two units of the last place, for |x| up to 87 (float32) or 708.

    Below, the result is the least of these; above, the largest or, with AVX-512, up to infinity.
    x = n ln 2 + r with |r| <= ln 2 / 2; a polynomial of r; n goes into the exponent.
    """
    bits = bits_of(x.type)
    x, magic = _between(b, x, -LIMIT[bits], inf if BYTES == 64 else LIMIT[bits]), everywhere(x.type, MAGIC[bits])
    shifted = multiply_add(b, x, everywhere(x.type, LOG2E), magic)
    n = b.fsub(shifted, magic)
    r = x
    for part in LN2[bits]:
        r = multiply_add(b, n, everywhere(x.type, -part), r)
    return _times_power(b, _polynomial(b, r, 0.0, e), n, shifted)


@operation()
def exp2(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^x within two units of the last place, for |x| up to 125 (float32) or 1021.

    Below, it is the least of these or less, down to 0; above, the largest or more, up to infinity. x = n + t with n
    whole; a polynomial of t; n goes into the exponent.
    """
    bits = bits_of(x.type)
    if BYTES == 64:  # t from 0 to 1, in one instruction; the exponent takes the whole part of x by itself
        return _own(b, "scalef", _polynomial(b, _own(b, "reduce", x, FLOOR), 0.5, 2.0), x)
    x, magic = _between(b, x, -LIMIT[bits] * LOG2E, LIMIT[bits] * LOG2E), everywhere(x.type, MAGIC[bits])
    shifted = b.fadd(x, magic)
    n = b.fsub(shifted, magic)
    return _times_power(b, _polynomial(b, b.fsub(x, n), 0.0, 2.0), n, shifted)
