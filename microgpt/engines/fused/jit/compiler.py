"""From Python to object code: Numba types and translates the kernels, LLVM optimizes them all in one piece.

Left to itself Numba optimizes and emits every function with all it calls, again at every level of calling. Here a
function is translated once and nothing is optimized before the whole is together. What comes out needs no Numba: a
kernel takes numbers and addresses, allocates nothing and raises nothing.
"""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_type_hints

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from microgpt.engines.fused.jit import elf
from microgpt.engines.fused.jit.cache import Code, Kernels
from microgpt.engines.fused.layout import Shape
from microgpt.engines.fused.simd.intrinsics import BYTES, has_bfloat16, machine, translated
from microgpt.errors import MachineError
from microgpt.progress import ProgressCallback

INT, DOUBLE = ir.IntType(64), ir.DoubleType()
KINDS = {"int": types.int64, "bool": types.boolean, "float": types.float64}
POINTERS = {"Tokens": types.int32, "Ints": types.int64, "Doubles": types.float64, "Bytes": types.uint8}
LETTERS = {types.int64: "q", types.boolean: "q", types.float64: "d"}  # of module `struct`; an address is Q

ENTRIES: dict[str, Callable[..., Any]] = {}


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel: the annotations of its parameters, numbers, a Shape and pointers, are the types it is compiled for."""
    ENTRIES[function.__name__] = function
    return function


class Part(JITCodeLibrary):  # type: ignore[misc]
    """A function's code, neither optimized nor emitted, and the parts that it calls."""

    _linked: Any = None

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # it cannot be called from Python

    def parts(self, found: dict[Any, None]) -> dict[Any, None]:
        """All libraries that this one needs, each once."""
        for library in self._linking_libraries:
            if library not in found:
                found[library] = None
                if isinstance(library, Part):
                    library.parts(found)
        return found

    def whole(self) -> Any:
        """One module of all that is needed."""
        module = self._final_module.clone()
        for library in self.parts({}):
            own = isinstance(library, Part)
            module.link_in(library._final_module if own else library._get_module_for_linking(), preserve=True)
        return module

    def _get_module_for_linking(self) -> Any:
        """For Numba's own libraries, which keep no track of what their parts need."""
        if self._linked is None:
            self._linked = self.whole()
            for function in self._linked.functions:
                if not function.is_declaration and function.linkage == llvm.Linkage.external:
                    function.linkage = "linkonce_odr"
        return self._linked


class Translator(JITCPUCodegen):  # type: ignore[misc]
    """Makes such parts, for the CPU that the library is for."""

    _library_class = Part

    def set_env(self, name: str, env: Any) -> None:
        """Only code that raises or calls Python would need it."""

    def _get_host_cpu_name(self) -> str:
        return machine()[0]

    def _get_host_cpu_features(self) -> str:
        return machine()[1]


@contextmanager
def _translating() -> Iterator[Translator]:
    """Within the block all that Numba compiles becomes parts. Without the garbage collector it takes two thirds."""
    context, collecting = cpu_target.target_context, gc.isenabled()
    with global_compiler_lock:
        before = context._internal_codegen
        context._internal_codegen = translator = Translator("microgpt")
        gc.disable()
        try:
            yield translator
        finally:
            context._internal_codegen = before
            if collecting:
                gc.enable()


def compiled(dtype: str, told: ProgressCallback) -> Code:
    """The kernels of a float type. Raises MachineError where Numba is told not to compile."""
    if config.DISABLE_JIT:
        raise MachineError(
            "--engine fused: Numba's compiler is off; unset NUMBA_DISABLE_JIT or take another engine", "E_JIT"
        )
    from microgpt.engines.fused import generate, generate_batch, train  # noqa: F401  they say what the entries are

    words = dtype == "bfloat16" and has_bfloat16()
    number, forms = types.float64 if dtype == "float64" else types.float32, {}
    with _translating() as translator:
        library = translator.create_library("microgpt")
        for name in Kernels.NAMES:
            told(name, None)
            start = time.perf_counter()
            kinds = [_kind(word, number, words) for word in _annotations(ENTRIES[name])]
            forms[name] = _add(library, ENTRIES[name], kinds)
            told(name, time.perf_counter() - start)
        told("machine code", None)
        start = time.perf_counter()
        data = _emit(translator, library.whole())
        told("machine code", time.perf_counter() - start)
    found = elf.image(data, Kernels.NAMES) if elf.possible() else None
    if found is None:
        return Code(BYTES, words, forms, None, {}, data)
    return Code(BYTES, words, forms, found.doors, found.calls, found.data)


def _annotations(function: Callable[..., Any]) -> list[str]:
    """The words behind a function's parameters."""
    words = inspect.get_annotations(function)
    return [words[name] for name in inspect.signature(function).parameters]


def _kind(word: str, number: Any, words: bool) -> Any:
    """Numba's type for an annotation; P is a pointer to numbers of the library's own, and Operands, unless to words."""
    if word == "Shape":
        return types.NamedTuple([KINDS[field.__name__] for field in get_type_hints(Shape).values()], Shape)
    if word in KINDS:
        return KINDS[word]
    if word == "Operands":
        return types.CPointer(types.uint32 if words else number)
    return types.CPointer(number if word == "P" else POINTERS[word])


def _add(library: Part, function: Callable[..., Any], kinds: list[Any]) -> str:
    """Translate a kernel, and a C function of its name that takes the address of its arguments; returns their form."""
    dispatcher = translated(function)
    dispatcher.compile(tuple(kinds))
    found = dispatcher.overloads[tuple(kinds)]
    context = found.target_context
    library.add_linking_library(found.library)

    module = library.create_ir_module(function.__name__)
    door = ir.Function(module, ir.FunctionType(INT, [INT.as_pointer()]), function.__name__)
    b = ir.IRBuilder(door.append_basic_block())
    form = ""

    def argument(kind: Any) -> ir.Value:
        """The next of them."""
        nonlocal form
        place = b.gep(door.args[0], [INT(len(form))])
        form += LETTERS.get(kind, "Q")
        if kind == types.float64:
            return b.load(b.bitcast(place, DOUBLE.as_pointer()))
        value = b.load(place)
        if isinstance(kind, types.CPointer):
            return b.inttoptr(value, context.get_value_type(kind))
        return b.icmp_unsigned("!=", value, INT(0)) if kind == types.boolean else value

    values = [
        context.make_tuple(b, kind, [argument(field) for field in kind.types])
        if isinstance(kind, types.BaseTuple)
        else argument(kind)
        for kind in kinds
    ]
    callee, returns = context.declare_function(module, found.fndesc), found.signature.return_type
    _, result = context.call_conv.call_function(b, callee, returns, found.signature.args, values)
    b.ret(INT(0) if returns == types.none else result)
    library.add_ir_module(module)
    return form


def _emit(translator: Translator, module: Any) -> bytes:
    """Optimize and emit a module of which only the kernels are seen from outside.

    The vectors are written by hand, so LLVM need not look for more of them, and loops over tiles fill the registers:
    unrolled, they would spill.
    """
    for value in (*module.functions, *module.global_variables):
        if not value.is_declaration:
            value.linkage = "external" if value.name in ENTRIES else "internal"
    emitter = translator._tm
    options = llvm.create_pipeline_tuning_options(2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(emitter, options)
    passes.getModulePassManager().run(module, passes)
    if elf.possible():
        name, features = machine()
        target = llvm.Target.from_triple(llvm.get_process_triple())
        emitter = target.create_target_machine(name, features, opt=2, reloc="pic", codemodel="small")
    return bytes(emitter.emit_object(module))
