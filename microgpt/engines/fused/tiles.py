"""The vocabulary of the fused engine: places in memory, vectors in registers, tiles of products.

A *pointer* is an address of numbers of one dtype; `p + n` is n numbers further on. A *vector* is what one register
holds (16 float32 with AVX-512, 8 with AVX2, 4 with NEON): an LLVM value, so a running sum stays in its register.
Vectors take + - * / with each other and with plain numbers. Nothing is ever reordered: no fast-math flag is
set, so a result depends on the order written here and on nothing the compiler chooses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import factorial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

I32, INT = ir.IntType(32), ir.IntType(64)


def _machine() -> tuple[int, int]:
    """Bytes a vector register holds and how many accumulators a tile may keep, of the CPU compiled for."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    if "+avx512f" in features:
        return 64, 24
    if "+avx" in features:
        return 32, 12
    return 16, 24 if "+neon" in features else 12


BYTES, ACCUMULATORS = _machine()
ROWS = 8 if ACCUMULATORS == 24 else 6  # rows of a full tile
PAIR = 2  # vectors in a row of a full tile


def lanes_of(dtype: str) -> int:
    """Numbers in a vector."""
    return BYTES // (8 if dtype == "float64" else 4)


class Vector(types.Type):
    """Numba's type for a register full of numbers."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype, self.lanes = dtype, BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")

    @property
    def ir(self) -> ir.VectorType:
        """LLVM's type."""
        return ir.VectorType(ir.FloatType() if self.dtype.bitwidth == 32 else ir.DoubleType(), self.lanes)

    @property
    def ints(self) -> ir.VectorType:
        """LLVM's type for its bits as integers."""
        return ir.VectorType(ir.IntType(self.dtype.bitwidth), self.lanes)


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.ir)


# Building LLVM code


def _splat(b: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    """One number in every lane."""
    if isinstance(value, ir.Constant):
        return ir.Constant(kind, [value.constant] * kind.count)
    first = b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), None))


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _call(b: ir.IRBuilder, name: str, kind: ir.Type, *args: ir.Value) -> ir.Value:
    """An LLVM intrinsic from vectors of a kind to such a vector."""
    function = cgutils.get_or_insert_function(
        b.module, ir.FunctionType(kind, [a.type for a in args]), f"llvm.{name}.v{kind.count}{_suffix(kind.element)}"
    )
    return b.call(function, args)


def _suffix(element: ir.Type) -> str:
    return "f32" if isinstance(element, ir.FloatType) else "f64"


def _fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """x y + z, rounded once where the machine has that instruction."""
    return _call(b, "fmuladd", x.type, x, y, z)


def _load(b: ir.IRBuilder, pointer: ir.Value, offset: ir.Value | None, kind: ir.VectorType) -> ir.Value:
    place = b.gep(pointer, [offset]) if offset is not None else pointer
    value = b.load(b.bitcast(place, kind.as_pointer()))
    value.align = 4
    return value


def _store(b: ir.IRBuilder, value: ir.Value, pointer: ir.Value, offset: ir.Value | None) -> None:
    place = b.gep(pointer, [offset]) if offset is not None else pointer
    b.store(value, b.bitcast(place, value.type.as_pointer())).align = 4


def _as_lane(context: Any, b: ir.IRBuilder, value: ir.Value, kind: types.Type, vector: Vector) -> ir.Value:
    """A number of any type as the vector's dtype in every lane."""
    return _splat(b, context.cast(b, value, kind, vector.dtype), vector.ir)


# Operators on vectors

Emit = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


def _operator(op: Any, emit: Emit) -> None:
    """Teach Numba `vector op vector`, `vector op number` and `number op vector`."""

    class Typing(AbstractTemplate):
        key = op

        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [a for a in args if isinstance(a, Vector)]
            if len(args) == 2 and vectors and all(isinstance(a, (Vector, types.Number)) for a in args):
                return signature(vectors[0], *args)
            return None

    infer_global(op)(Typing)

    def lower(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        values = [
            value if isinstance(kind, Vector) else _as_lane(context, b, value, kind, sig.return_type)
            for value, kind in zip(args, sig.args, strict=True)
        ]
        return emit(b, *values)

    for left, right in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, left, right)(lower)


for _ops, _emit in (
    ((operator.add, operator.iadd), ir.IRBuilder.fadd),
    ((operator.sub, operator.isub), ir.IRBuilder.fsub),
    ((operator.mul, operator.imul), ir.IRBuilder.fmul),
    ((operator.truediv, operator.itruediv), ir.IRBuilder.fdiv),
):
    for _op in _ops:
        _operator(_op, _emit)


class _Step(AbstractTemplate):
    """pointer + integer -> pointer."""

    key = operator.add

    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 2 and isinstance(args[0], types.CPointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.intp)
        return None


infer_global(operator.add)(_Step)


@lower_builtin(operator.add, types.CPointer, types.Integer)
def _step(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    return b.gep(args[0], [args[1]])


@intrinsic
def once(typing):  # type: ignore[no-untyped-def]
    """Said in a function: keep its code in one place and call it there, which keeps compiling short."""

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        b.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def plain(typing, x):  # type: ignore[no-untyped-def]
    """The number x, not as a constant: a function called with it is compiled once for all numbers."""

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return context.cast(b, args[0], sig.args[0], sig.return_type)

    return types.unliteral(x)(x), emit


# Memory


@intrinsic
def pointer(typing, array):  # type: ignore[no-untyped-def]
    """The address of a contiguous array's first number. The caller keeps the array alive."""
    if not isinstance(array, types.Array):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return context.make_array(sig.args[0])(context, b, args[0]).data

    return types.CPointer(array.dtype)(array), emit


@intrinsic
def lanes(typing, p):  # type: ignore[no-untyped-def]
    """Numbers a vector of the pointer's dtype holds, a constant."""
    count = Vector(p.dtype).lanes

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return INT(count)

    return types.intp(p), emit


@intrinsic
def load(typing, p, i):  # type: ignore[no-untyped-def]
    """The vector at p[i:], which need not be aligned."""
    kind = Vector(p.dtype)

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return _load(b, args[0], args[1], kind.ir)

    return kind(p, types.intp), emit


@intrinsic
def store(typing, p, i, x):  # type: ignore[no-untyped-def]
    """p[i:] = x."""
    if not isinstance(x, Vector) or x.dtype != p.dtype:
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        _store(b, args[2], args[0], args[1])
        return context.get_dummy_value()

    return types.void(p, types.intp, x), emit


@intrinsic
def splat(typing, p, x):  # type: ignore[no-untyped-def]
    """The number x in every lane of a vector of the pointer's dtype."""
    kind = Vector(p.dtype)

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return _as_lane(context, b, args[1], sig.args[1], kind)

    return kind(p, x), emit


# Arithmetic


@intrinsic
def fma(typing, x, y, z):  # type: ignore[no-untyped-def]
    """x y + z, rounded once; x, y or z may be plain numbers."""
    kind = next((k for k in (x, y, z) if isinstance(k, Vector)), None)
    if kind is None:
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return _fma(
            b,
            *(
                a if isinstance(k, Vector) else _as_lane(context, b, a, k, kind)
                for a, k in zip(args, sig.args, strict=True)
            ),
        )

    return kind(x, y, z), emit


@intrinsic
def sqrt(typing, x):  # type: ignore[no-untyped-def]
    """The correctly rounded square root of every lane."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return _call(b, "sqrt", x.ir, args[0])

    return x(x), emit


def _estimate(name: str) -> Any:
    """The machine's 14-bit estimate of 1/x or 1/sqrt(x), one Newton step from float32's precision, if it has one."""

    def emit(b: ir.IRBuilder, x: ir.Value) -> ir.Value | None:
        if BYTES != 64 or not isinstance(x.type.element, ir.FloatType):
            return None
        mask = ir.IntType(16)
        function = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(x.type, [x.type, x.type, mask]), f"llvm.x86.avx512.{name}14.ps.512"
        )
        return b.call(function, [x, _constant(x.type, 0.0), mask(0xFFFF)])

    return emit


_reciprocal, _reciprocal_root = _estimate("rcp"), _estimate("rsqrt")


@intrinsic
def inverse(typing, x):  # type: ignore[no-untyped-def]
    """1 / x for finite x > 0, within two units of the last place."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        one, y = _constant(x.ir, 1.0), _reciprocal(b, args[0])
        if y is None:
            return b.fdiv(one, args[0])
        rest = _fma(b, b.fneg(args[0]), y, one)
        return _fma(b, y, rest, y)

    return x(x), emit


@intrinsic
def root(typing, x):  # type: ignore[no-untyped-def]
    """sqrt(x) for normal x > 0 within two units of the last place."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        v, y = args[0], _reciprocal_root(b, args[0])
        if y is None:
            return _call(b, "sqrt", x.ir, v)
        s = b.fmul(v, y)
        rest = _fma(b, b.fneg(s), s, v)
        return _fma(b, b.fmul(rest, _constant(x.ir, 0.5)), y, s)

    return x(x), emit


@intrinsic
def inverse_root(typing, x):  # type: ignore[no-untyped-def]
    """1 / sqrt(x) for normal x > 0 within two units of the last place."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        one, y = _constant(x.ir, 1.0), _reciprocal_root(b, args[0])
        if y is None:
            return b.fdiv(one, _call(b, "sqrt", x.ir, args[0]))
        rest = _fma(b, b.fneg(b.fmul(args[0], y)), y, one)
        return _fma(b, b.fmul(rest, _constant(x.ir, 0.5)), y, y)

    return x(x), emit


@intrinsic
def lane(typing, x):  # type: ignore[no-untyped-def]
    """The number in the first lane."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return b.extract_element(args[0], I32(0))

    return x.dtype(x), emit


@intrinsic
def group_sum(typing, x, size):  # type: ignore[no-untyped-def]
    """In every lane the sum over its group of `size` lanes, a power of two; over all of them if size is `lanes`."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        value, step = args[0], 1
        while step < x.lanes:
            entry, more, after = b.block, b.append_basic_block("more"), b.append_basic_block("after")
            b.cbranch(b.icmp_signed(">", args[1], INT(step)), more, after)
            b.position_at_end(more)
            swap = ir.Constant(ir.VectorType(I32, x.lanes), [lane ^ step for lane in range(x.lanes)])
            wider = b.fadd(value, b.shuffle_vector(value, value, swap))
            b.branch(after)
            b.position_at_end(after)
            merged = b.phi(x.ir)
            merged.add_incoming(value, entry)
            merged.add_incoming(wider, more)
            value, step = merged, 2 * step
        return value

    return x(x, types.intp), emit


@intrinsic
def maximum(typing, x, y):  # type: ignore[no-untyped-def]
    """The larger in every lane; x where either is not a number."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        other = args[1] if isinstance(y, Vector) else _as_lane(context, b, args[1], y, x)
        return b.select(b.fcmp_ordered("<", args[0], other), other, args[0])

    return x(x, y), emit


@intrinsic
def positive(typing, x, then):  # type: ignore[no-untyped-def]
    """`then` in the lanes where x > 0, elsewhere 0; not a number where x is not."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        zero = _constant(x.ir, 0.0)
        return b.select(b.fcmp_ordered("<=", args[0], zero), zero, args[1])

    return x(x, then), emit


@intrinsic
def first(typing, x, n, other):  # type: ignore[no-untyped-def]
    """x in the first n lanes, the number `other` in the rest."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        number = ir.Constant(x.ints, list(range(x.lanes)))
        n = _splat(b, b.trunc(args[1], x.ints.element) if x.ints.element.width < 64 else args[1], x.ints)
        return b.select(b.icmp_signed("<", number, n), args[0], _as_lane(context, b, args[2], sig.args[2], x))

    return x(x, types.intp, other), emit


@intrinsic
def last(typing, x, n, other):  # type: ignore[no-untyped-def]
    """The number `other` in the first n lanes, x in the rest."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        number = ir.Constant(x.ints, list(range(x.lanes)))
        n = _splat(b, b.trunc(args[1], x.ints.element) if x.ints.element.width < 64 else args[1], x.ints)
        return b.select(b.icmp_signed("<", number, n), _as_lane(context, b, args[2], sig.args[2], x), args[0])

    return x(x, types.intp, other), emit


def _fold(b: ir.IRBuilder, x: ir.Value, combine: Emit) -> ir.Value:
    """All lanes into one, halving: the order of a balanced tree."""
    count = x.type.count
    while count > 1:
        count //= 2
        low, high = (
            ir.Constant(ir.VectorType(I32, count), list(range(start, start + count))) for start in (0, count)
        )
        x = combine(b, b.shuffle_vector(x, x, low), b.shuffle_vector(x, x, high))
    return b.extract_element(x, I32(0))


@intrinsic
def total(typing, x):  # type: ignore[no-untyped-def]
    """The sum of the lanes."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return _fold(b, args[0], ir.IRBuilder.fadd)

    return x.dtype(x), emit


@intrinsic
def largest(typing, x):  # type: ignore[no-untyped-def]
    """The largest of the lanes."""
    if not isinstance(x, Vector):
        return None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        return _fold(b, args[0], lambda b, u, v: b.select(b.fcmp_ordered("<", u, v), v, u))

    return x.dtype(x), emit


LOG2E = 1.4426950408889634
LN2 = {32: (0.693359375, -2.12194440e-4), 64: (0.6931471803691238, 1.9082149292705877e-10)}  # high bits, rest
MAGIC = {32: 1.5 * 2**23, 64: 1.5 * 2**52}  # adding it rounds to an integer, which then lies in the low bits
DEGREE = {32: 7, 64: 13}
LIMIT = {32: 87.0, 64: 708.0}


@intrinsic
def exp(typing, x):  # type: ignore[no-untyped-def]
    """e^x within two units of the last place, for |x| up to 87 (float32) or 708, held there beyond.

    x = n ln 2 + r with |r| <= ln 2 / 2; Taylor's series of e^r; n goes into the exponent.
    """
    if not isinstance(x, Vector):
        return None
    bits = x.dtype.bitwidth

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        high, low = _constant(x.ir, LIMIT[bits]), _constant(x.ir, -LIMIT[bits])
        v = b.select(b.fcmp_ordered(">", args[0], high), high, args[0])
        v = b.select(b.fcmp_ordered("<", v, low), low, v)
        magic = _constant(x.ir, MAGIC[bits])
        shifted = _fma(b, v, _constant(x.ir, LOG2E), magic)
        n = b.fsub(shifted, magic)
        r = _fma(b, n, _constant(x.ir, -LN2[bits][0]), v)
        r = _fma(b, n, _constant(x.ir, -LN2[bits][1]), r)
        y = _constant(x.ir, 1 / factorial(DEGREE[bits]))
        for k in reversed(range(DEGREE[bits])):
            y = _fma(b, y, r, _constant(x.ir, 1 / factorial(k)))
        mantissa = 23 if bits == 32 else 52
        n_bits = b.shl(b.bitcast(shifted, x.ints), _constant(x.ints, mantissa))
        return b.bitcast(b.add(b.bitcast(y, x.ints), n_bits), x.ir)

    return x(x), emit


# Tiles


def _tile(b: ir.IRBuilder, kind: ir.VectorType, rows: int, vecs: int, places: Any, K: ir.Value, add: ir.Value) -> None:
    """One tile: rows x vecs accumulators in registers, a loop over k that broadcasts a and loads w."""
    a, down, along, w, ldw, c, ldc = places
    cells = [(m, j) for m in range(rows) for j in range(vecs)]
    a_rows = [b.gep(a, [b.mul(down, INT(m))]) for m in range(rows)]
    c_rows = [b.gep(c, [b.mul(ldc, INT(m))]) for m in range(rows)]
    entry, begin, loop, done = b.block, *(b.append_basic_block(name) for name in ("begin", "k", "done"))
    adding = b.append_basic_block("adding")
    b.cbranch(add, adding, begin)
    b.position_at_end(adding)
    old = {(m, j): _load(b, c_rows[m], INT(j * kind.count), kind) for m, j in cells}
    b.branch(begin)
    b.position_at_end(begin)
    start = {cell: b.phi(kind) for cell in cells}
    for cell in cells:
        start[cell].add_incoming(_constant(kind, 0.0), entry)
        start[cell].add_incoming(old[cell], adding)
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(INT)
    acc = {cell: b.phi(kind) for cell in cells}
    w_row, a_k = b.gep(w, [b.mul(k, ldw)]), b.mul(k, along)
    ws = [_load(b, w_row, INT(j * kind.count), kind) for j in range(vecs)]
    end = {}
    for m in range(rows):
        value = _splat(b, b.load(b.gep(a_rows[m], [a_k])), kind)
        for j in range(vecs):
            end[m, j] = _fma(b, value, ws[j], acc[m, j])
    k_next = b.add(k, INT(1))
    k.add_incoming(INT(0), begin)
    k.add_incoming(k_next, loop)
    for cell in cells:
        acc[cell].add_incoming(start[cell], begin)
        acc[cell].add_incoming(end[cell], loop)
    b.cbranch(b.icmp_signed("<", k_next, K), loop, done)
    b.position_at_end(done)
    for m, j in cells:
        _store(b, end[m, j], c_rows[m], INT(j * kind.count))


@intrinsic(prefer_literal=True)
def tile(typing, a, down, along, w, ldw, c, ldc, rows, K, vecs, add):  # type: ignore[no-untyped-def]
    """C = A W for a tile of C: (rows, vecs whole vectors); C += A W where `add`. K is at least 1.

    `down` and `along` are the steps from one number of A to the next in its row's and column's number, so that A may
    lie either way; ld*: from one row to the next. `rows`, up to ROWS, may be known only at run time; vecs is literal.
    """
    if not isinstance(vecs, types.IntegerLiteral):
        return None
    kind, width = Vector(c.dtype), vecs.literal_value
    fixed = rows.literal_value if isinstance(rows, types.IntegerLiteral) else None

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        places, K, add = tuple(args[:7]), args[8], args[10]
        if fixed is not None:
            _tile(b, kind.ir, fixed, width, places, K, add)
            return context.get_dummy_value()
        after = b.append_basic_block("after")
        switch = b.switch(args[7], after)
        for m in range(1, ROWS + 1):
            block = b.append_basic_block(f"rows{m}")
            switch.add_case(INT(m), block)
            b.position_at_end(block)
            _tile(b, kind.ir, m, width, places, K, add)
            b.branch(after)
        b.position_at_end(after)
        return context.get_dummy_value()

    index = types.intp
    where = (a, index, index, w, index, c, index)
    return types.void(*where, rows if fixed is not None else index, index, vecs, types.boolean), emit


@intrinsic
def transpose_block(typing, x, ldx, y, ldy, rows):  # type: ignore[no-untyped-def]
    """The first `rows` rows of the transpose of a square block, as large as a vector: y[i, j] = x[j, i]."""
    kind = Vector(x.dtype)
    n = kind.lanes

    def emit(context, b, sig, args):  # type: ignore[no-untyped-def]
        x, ldx, y, ldy, rows = args
        v = [_load(b, b.gep(x, [b.mul(ldx, INT(i))]), None, kind.ir) for i in range(n)]
        step = 1
        while step < n:  # exchange the off-diagonal halves of every 2 step x 2 step block
            low = [j if not j & step else n + j - step for j in range(n)]
            high = [j + step if not j & step else n + j for j in range(n)]
            for i in range(n):
                if not i & step:
                    masks = [ir.Constant(ir.VectorType(I32, n), m) for m in (low, high)]
                    v[i], v[i + step] = (b.shuffle_vector(v[i], v[i + step], m) for m in masks)
            step *= 2
        for i in range(n):
            with b.if_then(b.icmp_signed("<", INT(i), rows)):
                _store(b, v[i], b.gep(y, [b.mul(ldy, INT(i))]), None)
        return context.get_dummy_value()

    index = types.intp
    return types.void(x, index, y, index, index), emit
