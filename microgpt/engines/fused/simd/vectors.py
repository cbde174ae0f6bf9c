"""Pointers to numbers in memory and vectors in registers, with their operations.

A *pointer* is an address of numbers of one dtype; `p + n` is n numbers further on. A *vector* is what one register
holds (16 float32 with AVX-512, 8 with AVX2, 4 with NEON): an LLVM value, so a running sum stays in its register.
Vectors take + - * / with each other and with plain numbers. Nothing is ever reordered: no fast-math flag is
set, so a result depends on the order written here and on nothing the compiler chooses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, type_callable

from microgpt.engines.fused.jit.functions import builder
from microgpt.engines.fused.simd.intrinsics import (
    BYTES,
    I32,
    INT,
    Vector,
    as_vector,
    bits_of,
    call,
    declare,
    effect,
    everywhere,
    multiply_add,
    operation,
    prefetch,
    read,
    shuffle,
    spread,
    write,
)

# Operators: vector op vector, vector op number, number op vector


def _operator(op: Any, build: Callable[..., ir.Value]) -> None:
    def typing(context: Any) -> Callable[..., Any]:
        def result(x: Any, y: Any) -> Any:
            vectors = [kind for kind in (x, y) if isinstance(kind, Vector)]
            both = vectors and all(isinstance(kind, Vector | types.Number) for kind in (x, y))
            return vectors[0] if both else None

        return result

    type_callable(op)(typing)

    def lower(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return build(b, *(as_vector(context, b, v, k, sig.return_type) for v, k in zip(args, sig.args, strict=True)))

    for left, right in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, left, right)(lower)


_operator(operator.add, ir.IRBuilder.fadd)
_operator(operator.sub, ir.IRBuilder.fsub)
_operator(operator.mul, ir.IRBuilder.fmul)
_operator(operator.truediv, ir.IRBuilder.fdiv)


def _step(context: Any) -> Callable[..., Any]:
    """pointer + integer -> pointer."""

    def result(x: Any, y: Any) -> Any:
        return x(x, types.intp) if isinstance(x, types.CPointer) and isinstance(y, types.Integer) else None

    return result


type_callable(operator.add)(_step)
lower_builtin(operator.add, types.CPointer, types.Integer)(lambda context, b, sig, args: b.gep(args[0], [args[1]]))


# Memory


@builder
def lanes(typing: Any, p: Any) -> Any:
    """Numbers per vector of the pointer's dtype, a constant."""
    return types.intp(p), lambda context, b, sig, args: INT(Vector(p.dtype).lanes)


@builder
def numbers(typing: Any, p: Any, like: Any) -> Any:
    """The address p, as a pointer to the type that `like` points to."""
    return like(p, like), lambda context, b, sig, args: b.bitcast(args[0], args[1].type)


@builder
def load(typing: Any, p: Any, i: Any) -> Any:
    """The vector at p[i:], which need not be aligned."""
    return Vector(p.dtype)(p, types.intp), lambda context, b, sig, args: read(b, args[0], args[1], sig.return_type.ir)


@builder
def load_as(typing: Any, like: Any, p: Any, i: Any) -> Any:
    """p[i:] as a vector of the dtype that `like` points to, which is no narrower."""

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        wide = sig.return_type.ir
        x = read(b, args[1], args[2], ir.VectorType(args[1].type.pointee, wide.count))
        return x if x.type == wide else b.fpext(x, wide)

    return Vector(like.dtype)(like, p, types.intp), emit


@builder
def store(typing: Any, p: Any, i: Any, x: Any) -> Any:
    """p[i:] = x."""
    if not isinstance(x, Vector) or x.dtype != p.dtype:
        return None
    return effect(types.void(p, types.intp, x), lambda b, p, i, x: write(b, x, p, i))


@builder
def prefetch_line(typing: Any, p: Any, i: Any) -> Any:
    """Prefetch the cache line of p[i] into the level 1 cache."""
    return effect(types.void(p, types.intp), lambda b, p, i: prefetch(b, p, i, writing=False))


@builder
def splat(typing: Any, p: Any, x: Any) -> Any:
    """The number x in every lane of a vector of the pointer's dtype."""

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return as_vector(context, b, args[1], sig.args[1], sig.return_type)

    return Vector(p.dtype)(p, x), emit


# Arithmetic


@operation()
def fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x y + z, rounded once."""
    return multiply_add(b, x, y, z)


@operation()
def sqrt(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The correctly rounded square root."""
    return call(b, "sqrt", x)


def _estimate(b: ir.IRBuilder, name: str, x: ir.Value) -> ir.Value | None:
    """The CPU's 14-bit estimate, one Newton step away from float32's precision; None where it has none."""
    if BYTES != 64 or bits_of(x.type) != 32:
        return None
    mask = ir.IntType(16)
    kind = ir.FunctionType(x.type, [x.type, x.type, mask])
    function = declare(b.module, kind, f"llvm.x86.avx512.{name}14.ps.512")
    return b.call(function, [x, everywhere(x.type, 0.0), mask(0xFFFF)])


@operation()
def inverse(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """1 / x for finite x > 0, within two units of the last place."""
    one, y = everywhere(x.type, 1.0), _estimate(b, "rcp", x)
    if y is None:
        return b.fdiv(one, x)
    return multiply_add(b, y, multiply_add(b, b.fneg(x), y, one), y)


@operation()
def inverse_root(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """1 / sqrt(x) for normal x > 0, within two units of the last place."""
    one, y = everywhere(x.type, 1.0), _estimate(b, "rsqrt", x)
    if y is None:
        return b.fdiv(one, call(b, "sqrt", x))
    rest, half = multiply_add(b, b.fneg(b.fmul(x, y)), y, one), b.fmul(y, everywhere(x.type, 0.5))
    return multiply_add(b, rest, half, y)


@operation()
def maximum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The larger; x where either is not a number."""
    return b.select(b.fcmp_ordered("<", x, y), y, x)


@operation()
def positive(b: ir.IRBuilder, x: ir.Value, then: ir.Value) -> ir.Value:
    """`then` where x > 0 or is not a number, elsewhere 0."""
    zero = everywhere(x.type, 0.0)
    return b.select(b.fcmp_ordered("<=", x, zero), zero, then)


@operation()
def first(b: ir.IRBuilder, n: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """x in the first n lanes, y in the rest."""
    kind = ir.VectorType(I32, x.type.count)
    number = ir.Constant(kind, list(range(kind.count)))
    return b.select(b.icmp_signed("<", number, spread(b, b.trunc(n, I32), kind)), x, y)


# Across lanes


def fold(b: ir.IRBuilder, x: ir.Value, combine: Callable[..., ir.Value]) -> ir.Value:
    """All lanes into one, halving: the order of a balanced tree."""
    count = x.type.count
    while count > 1:
        count //= 2
        x = combine(b, shuffle(b, x, x, list(range(count))), shuffle(b, x, x, list(range(count, 2 * count))))
    return b.extract_element(x, I32(0))


@operation(scalar=True)
def total(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The sum of the lanes."""
    return fold(b, x, ir.IRBuilder.fadd)


@operation(scalar=True)
def largest(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The largest of the lanes."""
    return fold(b, x, lambda b, u, v: b.select(b.fcmp_ordered("<", u, v), v, u))


@operation(scalar=True)
def lane(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The number in the first lane."""
    return b.extract_element(x, I32(0))


@operation()
def group_sum(b: ir.IRBuilder, x: ir.Value, size: ir.Value) -> ir.Value:
    """In every lane the sum over its group of `size` lanes, a power of two up to all lanes."""
    step = 1
    while step < x.type.count:
        entry, more, after = b.block, b.append_basic_block("more"), b.append_basic_block("after")
        b.cbranch(b.icmp_signed(">", size, INT(step)), more, after)
        b.position_at_end(more)
        wider = b.fadd(x, shuffle(b, x, x, [number ^ step for number in range(x.type.count)]))
        b.branch(after)
        b.position_at_end(after)
        merged = b.phi(x.type)
        merged.add_incoming(x, entry)
        merged.add_incoming(wider, more)
        x, step = merged, 2 * step
    return x
