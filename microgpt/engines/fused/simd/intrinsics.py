"""The CPU's vector registers, Numba's type for one, and the emitters of LLVM code that vectors and tiles use."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from microgpt.engines.common.hardware import compile_target, cpu
from microgpt.engines.fused.jit.functions import builder

I8, I16, I32, INT = (ir.IntType(bits) for bits in (8, 16, 32, 64))


BYTES = cpu()["vector_bits"] // 8  # per vector register


def has_bfloat16() -> bool:
    """Whether the CPU compiled for multiplies pairs of bfloat16s (here: AVX-512 BF16)."""
    return bool(cpu()["bfloat16"])


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type for a register full of numbers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.lanes = dtype, BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")

    @property
    def ir(self) -> ir.VectorType:
        """LLVM's type."""
        return ir.VectorType(ir.FloatType() if self.dtype.bitwidth == 32 else ir.DoubleType(), self.lanes)


class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.ir)


register_model(Vector)(_Model)


def bits_of(kind: ir.VectorType) -> int:
    """Bits of a number."""
    return 32 if isinstance(kind.element, ir.FloatType) else 64


def everywhere(kind: ir.VectorType, value: float) -> ir.Constant:
    """A constant in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def spread(b: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    """One number in every lane."""
    if isinstance(value, ir.Constant):
        return everywhere(kind, value.constant)
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), None))


def shuffle(b: ir.IRBuilder, x: ir.Value, y: ir.Value, lanes: list[int]) -> ir.Value:
    """Lanes of x (from 0) and y (from their number on) in another order."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def declare(module: ir.Module, kind: ir.FunctionType, name: str) -> ir.Function:
    """The function of a name in a module, declared where it is not yet there."""
    return module.globals.get(name) or ir.Function(module, kind, name)


def call(b: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """An LLVM intrinsic from vectors to such a vector."""
    kind = args[0].type
    name = f"llvm.{name}.v{kind.count}f{bits_of(kind)}"
    return b.call(declare(b.module, ir.FunctionType(kind, [kind] * len(args)), name), args)


def multiply_add(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x y + z, rounded once where the machine has that instruction."""
    return call(b, "fmuladd", x, y, z)


class _BFloat(ir.types.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def multiply_add_pairs(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """z plus, for each pair of bfloat16s in x and y, the sum of their products."""
    pairs = ir.VectorType(_BFloat(), 2 * z.type.count)
    kind = ir.FunctionType(z.type, [z.type, pairs, pairs])
    function = declare(b.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    return b.call(function, [z, b.bitcast(x, pairs), b.bitcast(y, pairs)])


# By the bytes of a vector: the feature of an x86 CPU that has the products of int16s added in pairs, and their name.
# LLVM makes one instruction of them and the addition that follows, where the CPU has it (VNNI).
PAIR_PRODUCTS = {
    64: ("avx512bw", "avx512.pmaddw.d.512"),
    32: ("avx2", "avx2.pmadd.wd"),
    16: ("sse2", "sse2.pmadd.wd"),
}


def multiply_add_integers(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """z plus, for each pair of int16s in x and of int8s in y, the sum of their products; exact, on any CPU."""
    kind, halves = z.type, ir.VectorType(I16, 2 * z.type.count)
    feature, name = PAIR_PRODUCTS[BYTES]
    x, y = b.bitcast(x, halves), b.sext(y, halves)
    if f"+{feature}" in compile_target()[1].split(","):
        function = declare(b.module, ir.FunctionType(kind, [halves, halves]), f"llvm.x86.{name}")
        return b.add(z, b.call(function, [x, y]))
    half = ir.Constant(kind, [16] * kind.count)
    x, y = b.bitcast(x, kind), b.bitcast(y, kind)
    low = b.mul(*(b.ashr(b.shl(each, half), half) for each in (x, y)))
    return b.add(z, b.add(low, b.mul(b.ashr(x, half), b.ashr(y, half))))


def to_bfloat16(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """A vector of float32 as 16-bit integers, rounded to the nearest bfloat16."""
    count = x.type.count
    return b.bitcast(b.fptrunc(x, ir.VectorType(_BFloat(), count)), ir.VectorType(I16, count))


def to_bfloat16s(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Two vectors of float32, one after the other, rounded to a vector of pairs of bfloat16s."""
    kind = ir.FunctionType(ir.VectorType(_BFloat(), 2 * x.type.count), [x.type, x.type])
    function = declare(b.module, kind, "llvm.x86.avx512bf16.cvtne2ps2bf16.512")
    return b.bitcast(b.call(function, [y, x]), ir.VectorType(I32, x.type.count))


def read(b: ir.IRBuilder, pointer: ir.Value, offset: ir.Value, kind: ir.VectorType) -> ir.Value:
    """The vector at pointer[offset:], aligned or not."""
    value = b.load(b.bitcast(b.gep(pointer, [offset]), kind.as_pointer()))
    value.align = 1 if kind.element == I8 else 4
    return value


def write(b: ir.IRBuilder, value: ir.Value, pointer: ir.Value, offset: ir.Value) -> None:
    """pointer[offset:] = value."""
    b.store(value, b.bitcast(b.gep(pointer, [offset]), value.type.as_pointer())).align = 4


def prefetch(b: ir.IRBuilder, pointer: ir.Value, offset: ir.Value, writing: bool) -> None:
    """Prefetch the cache line of pointer[offset] into the level 1 cache."""
    place = b.bitcast(b.gep(pointer, [offset]), ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    prefetch = declare(b.module, kind, "llvm.prefetch.p0")
    b.call(prefetch, [place, I32(int(writing)), I32(3), I32(1)])


def as_vector(context: Any, b: ir.IRBuilder, value: ir.Value, given: Any, kind: Vector) -> ir.Value:
    """A vector unchanged, or a number in every lane."""
    return value if isinstance(given, Vector) else spread(b, context.cast(b, value, given, kind.dtype), kind.ir)


def operation(scalar: bool = False) -> Callable[[Callable[..., ir.Value]], Any]:
    """A function for compiled code from one that builds its LLVM code.

    It takes vectors, plain floats, which go into every lane, and integers; it returns a vector or, if `scalar`, a
    number of its dtype.
    """

    def decorate(build: Callable[..., ir.Value]) -> Any:
        def typing(*given: Any) -> Any:
            vector = next((kind for kind in given if isinstance(kind, Vector)), None)
            if vector is None:
                return None

            def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
                values = [
                    context.cast(b, value, kind, types.intp)
                    if isinstance(kind, types.Integer)
                    else as_vector(context, b, value, kind, vector)
                    for value, kind in zip(args, sig.args, strict=True)
                ]
                return build(b, *values)

            return (vector.dtype if scalar else vector)(*given), emit

        # Numba takes the number of arguments from the function's own.
        shapes: dict[int, Callable[..., Any]] = {
            1: lambda typingctx, x: typing(x),
            2: lambda typingctx, x, y: typing(x, y),
            3: lambda typingctx, x, y, z: typing(x, y, z),
        }
        shape = shapes[len(inspect.signature(build).parameters) - 1]
        shape.__name__, shape.__doc__ = build.__name__, build.__doc__
        return builder(shape)

    return decorate


def effect(signature: Any, build: Callable[..., object]) -> tuple[Any, Callable[..., ir.Value]]:
    """The result of a builder of a function that returns nothing; build(b, *arguments) emits its code."""

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        build(b, *args)
        return context.get_dummy_value()

    return signature, emit


@builder
def noinline(typing: Any) -> Any:
    """Called in a function: do not inline it, which keeps compiling short."""
    return effect(types.void(), lambda b: b.function.attributes.add("noinline"))


@builder
def barrier(typing: Any, counter: Any, n_threads: Any) -> Any:
    """Wait until all `n_threads` threads have called this; `counter` points to their int64, which begins at 0."""

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        counter, n_threads = args
        ticket = b.atomic_rmw("add", counter, INT(1), "seq_cst")
        wanted = b.mul(b.add(b.sdiv(ticket, n_threads), INT(1)), n_threads)
        entry = b.block
        look, wait, rest, done = (b.append_basic_block(name) for name in ("look", "wait", "rest", "done"))
        b.branch(look)
        b.position_at_end(look)
        turns = b.phi(INT)
        b.cbranch(b.icmp_signed(">=", b.load_atomic(counter, "seq_cst", 8), wanted), done, wait)
        b.position_at_end(wait)
        more = b.add(turns, INT(1))
        b.cbranch(b.icmp_signed("==", b.and_(more, INT(0x3FF)), INT(0)), rest, look)
        b.position_at_end(rest)  # another thread may need this core
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        b.call(declare(b.module, ir.FunctionType(I32, []), name), [])
        b.branch(look)
        for block, value in ((entry, INT(0)), (wait, more), (rest, more)):
            turns.add_incoming(value, block)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(counter, types.intp), emit
