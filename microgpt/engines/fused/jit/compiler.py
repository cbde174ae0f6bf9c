"""From Python to machine code: gives every kernel an entry point of one pointer, and compiles them together."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_type_hints

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from microgpt.engines.fused.jit import elf
from microgpt.engines.fused.jit.code import Code, Kernel, Kernels
from microgpt.engines.fused.jit.functions import INTERNALS, jit
from microgpt.engines.fused.layout import Shape
from microgpt.engines.fused.plan import Plan
from microgpt.engines.fused.simd.float_mode import switches
from microgpt.engines.fused.simd.intrinsics import BYTES, has_bfloat16, noinline
from microgpt.errors import MachineError
from microgpt.progress import ProgressCallback

INT, DOUBLE = ir.IntType(64), ir.DoubleType()
KINDS = {"int": types.int64, "bool": types.boolean, "float": types.float64}
RECORDS = {"Shape": Shape, "Plan": Plan}
POINTERS = {"Tokens": types.int32, "Ints": types.int64, "Doubles": types.float64, "Bytes": types.uint8}
LETTERS = {types.int64: "q", types.boolean: "q", types.float64: "d"}  # of module `struct`; an address is Q

FAST = "compile the kernels for this CPU, once: about ten seconds"
SLOW = (
    f"compile the kernels through the public interface of Numba {numba.__version__}, whose private one is another than "
    "expected: about a minute, in every process, since they cannot be kept on disk"
)

Functions = tuple[Callable[..., int], ...]


def compile_kernels(functions: Functions, dtype: str, progress: ProgressCallback) -> Code | Kernels:
    """The kernels of a float type: as code for a file, or as functions where only Numba's public interface fits.

    The parameters of the functions are annotated with the names that `kind_of` knows. Raises MachineError where Numba
    is told not to compile.
    """
    if numba.config.DISABLE_JIT:
        raise MachineError(
            "--engine fused: Numba's compiler is off; unset NUMBA_DISABLE_JIT or take another engine", "E_JIT"
        )
    bf16_pairs = dtype == "bfloat16" and has_bfloat16()
    number = types.float64 if dtype == "float64" else types.float32
    kinds = {
        f.__name__: [kind_of(word, number, bf16_pairs, dtype == "int8") for word in _annotations(f)] for f in functions
    }
    forms = {name: "".join(map(_form, given)) for name, given in kinds.items()}
    entry_points = {f.__name__: entry_point(f, kinds[f.__name__], number is types.float32) for f in functions}
    if INTERNALS is None:
        progress(SLOW, None)
        found = []
        for name, function in entry_points.items():
            with _timed(name, progress):
                made = numba.cfunc(types.int64(POINTER), error_model="numpy")(function)
                found.append(Kernel(made.address, forms[name], made))
        return Kernels(BYTES, bf16_pairs, *found)
    progress(FAST, None)
    with INTERNALS.program() as program:
        for name, function in entry_points.items():
            with _timed(name, progress):
                program.add(name, function)
        with _timed("machine code", progress):
            data = program.emit(elf.possible())
    image = elf.image(data, tuple(forms)) if elf.possible() else None
    if image is None:
        return Code(BYTES, bf16_pairs, forms, None, {}, data)
    return Code(BYTES, bf16_pairs, forms, image.entry_points, image.calls, image.data)


@contextmanager
def _timed(what: str, progress: ProgressCallback) -> Iterator[None]:
    progress(what, None)
    start = time.perf_counter()
    yield
    progress(what, time.perf_counter() - start)


def _annotations(function: Callable[..., Any]) -> list[str]:
    """The annotations of a function's parameters, in order, as they are written."""
    words = inspect.get_annotations(function)
    return [words[name] for name in inspect.signature(function).parameters]


POINTER = types.CPointer(types.int64)


def kind_of(word: str, number: Any, bf16_pairs: bool, int8: bool) -> Any:
    """Numba's type for an annotation.

    P points to numbers of the kernels' float type; Operands too, unless products take pairs of bfloat16s; Stored too,
    unless `int8`: then to pairs of them.
    """
    if word in RECORDS:
        record = RECORDS[word]
        return types.NamedTuple([KINDS[field.__name__] for field in get_type_hints(record).values()], record)
    if word in KINDS:
        return KINDS[word]
    if word == "Operands":
        return types.CPointer(types.uint32 if bf16_pairs else number)
    if word == "Stored":
        return types.CPointer(types.int16 if int8 else number)
    return types.CPointer(number if word == "P" else POINTERS[word])


def _form(kind: Any) -> str:
    """The format of a type in the terms of module `struct`."""
    return "".join(map(_form, kind.types)) if isinstance(kind, types.BaseTuple) else LETTERS.get(kind, "Q")


def entry_point(function: Callable[..., int], kinds: list[Any], flushing: bool) -> Callable[[Any], int]:
    """A function of a pointer to a kernel's arguments, eight bytes each, that calls it.

    The kernel runs in a floating-point mode of its own, `flushing` denormals or not; see float_mode.py.
    """
    kernel = jit(function)
    enter, leave = switches(flushing)

    def arguments(typing: Any, pointer: Any) -> Any:
        result = types.Tuple(kinds)

        def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            values, at = [], 0
            for kind in kinds:
                values.append(_read(context, b, kind, args[0], at))
                at += len(_form(kind))
            return context.make_tuple(b, result, values)

        return result(pointer), emit

    given = intrinsic(arguments)

    @jit
    def run(pointer: Any) -> int:
        noinline()  # inlined into `call`, its arithmetic could be moved out of its mode
        return kernel(*given(pointer))

    def call(pointer: Any) -> int:
        before = enter()
        result = run(pointer)
        leave(before)
        return result

    return call


def _read(context: Any, b: ir.IRBuilder, kind: Any, pointer: ir.Value, at: int) -> ir.Value:
    """An argument of a type: the `at`-th and, for a tuple, the next ones behind `pointer`."""
    if isinstance(kind, types.BaseTuple):
        return context.make_tuple(b, kind, [_read(context, b, field, pointer, at + i) for i, field in enumerate(kind)])
    place = b.gep(pointer, [INT(at)])
    if kind == types.float64:
        return b.load(b.bitcast(place, DOUBLE.as_pointer()))
    value = b.load(place)
    if isinstance(kind, types.CPointer):
        return b.inttoptr(value, context.get_value_type(kind))
    return b.icmp_unsigned("!=", value, INT(0)) if kind == types.boolean else value
