"""All that uses Numba's private interfaces, and so may break with any of its releases; see functions.py.

Left to itself Numba optimizes and emits every function together with all that it calls, again at every level of calls.
Here each function is translated once, and nothing is optimized before the whole program is linked. The result needs no
Numba: a kernel takes numbers and addresses, allocates nothing and raises nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import njit, types
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.typed_passes import NativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode

from microgpt.engines.common.hardware import compile_target
from microgpt.engines.fused.jit.code import Kernel, link

KNOWN = (0, 68)  # the minor version that this file was written for; others are checked before they are used
POINTER = types.CPointer(types.int64)


class Pipeline(CompilerBase):  # type: ignore[misc]
    """Numba's compiler with only the passes that produce LLVM code.

    Those left out look for closures, arrays, generators and branches on literals, of which kernels have none, and take
    a third of the time. The result is the same.
    """

    PASSES = TranslateByteCode, FixupArgs, IRProcessing, NopythonTypeInference, NativeLowering, NoPythonBackend

    def define_pipelines(self) -> list[PassManager]:
        """Numba runs the first pipeline that succeeds."""
        manager = PassManager("microgpt")
        for step in self.PASSES:
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """numba.njit without the wrappers for callers in Python; literal arguments count as their types alone."""
    compiled = njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)
    template = compiled.get_call_template
    # otherwise the function would be compiled again for every value of a literal
    compiled.get_call_template = lambda args, kws: template([types.unliteral(kind) for kind in args], kws)
    return compiled


class Module(JITCodeLibrary):  # type: ignore[misc]
    """A function's code, neither optimized nor emitted, and the modules that it depends on."""

    _linked: Any = None

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # it cannot be called from Python

    def dependencies(self, found: dict[Any, None]) -> dict[Any, None]:
        """All modules that this one needs, each once."""
        for library in self._linking_libraries:
            if library not in found:
                found[library] = None
                if isinstance(library, Module):
                    library.dependencies(found)
        return found

    def link(self) -> Any:
        """One LLVM module of this one and its dependencies."""
        module = self._final_module.clone()
        for library in self.dependencies({}):
            ours = isinstance(library, Module)
            module.link_in(library._final_module if ours else library._get_module_for_linking(), preserve=True)
        return module

    def _get_module_for_linking(self) -> Any:
        """For Numba's own libraries, which do not track the dependencies of ours."""
        if self._linked is None:
            self._linked = self.link()
            for function in self._linked.functions:
                if not function.is_declaration and function.linkage == llvm.Linkage.external:
                    function.linkage = "linkonce_odr"
        return self._linked


class Codegen(JITCPUCodegen):  # type: ignore[misc]
    """Makes such modules, for the CPU that kernels are compiled for."""

    _library_class = Module

    def set_env(self, name: str, env: Any) -> None:
        """Only code that raises or calls Python would need it."""

    def _get_host_cpu_name(self) -> str:
        return compile_target()[0]

    def _get_host_cpu_features(self) -> str:
        return compile_target()[1]


class Program:
    """Entry points that are translated one after another, then optimized and emitted together."""

    def __init__(self, codegen: Codegen) -> None:
        self.codegen, self.library = codegen, codegen.create_library("microgpt")
        self.names: list[str] = []

    def add(self, name: str, function: Callable[[Any], int]) -> None:
        """Translate a function of one pointer, and give it a C function of this name that returns its int64."""
        dispatcher = jit(function, error_model="numpy", pipeline_class=Pipeline)
        dispatcher.compile((POINTER,))
        found = dispatcher.overloads[(POINTER,)]
        context = found.target_context
        self.library.add_linking_library(found.library)
        module = self.library.create_ir_module(name)
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64).as_pointer()])
        wrapper = ir.Function(module, kind, name)
        b = ir.IRBuilder(wrapper.append_basic_block())
        callee = context.declare_function(module, found.fndesc)
        arguments = found.signature.return_type, found.signature.args, wrapper.args
        b.ret(context.call_conv.call_function(b, callee, *arguments)[1])
        self.library.add_ir_module(module)
        self.names.append(name)

    def emit(self, position_independent: bool) -> bytes:
        """Optimize and emit an object file of which only the entry points are visible.

        The vectors are written by hand, so LLVM need not look for more of them, and loops over tiles fill the
        registers: unrolled, they would spill.
        """
        module = self.library.link()
        for value in (*module.functions, *module.global_variables):
            if not value.is_declaration:
                value.linkage = "external" if value.name in self.names else "internal"
        emitter = self.codegen._tm
        options = llvm.create_pipeline_tuning_options(2)
        options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
        passes = llvm.create_pass_builder(emitter, options)
        passes.getModulePassManager().run(module, passes)
        if position_independent:
            name, features = compile_target()
            target = llvm.Target.from_triple(llvm.get_process_triple())
            emitter = target.create_target_machine(name, features, opt=2, reloc="pic", codemodel="small")
        return bytes(emitter.emit_object(module))


@contextmanager
def program() -> Iterator[Program]:
    """Within the block, all that Numba compiles becomes modules. Without garbage collection it takes two thirds."""
    context, collecting = cpu_target.target_context, gc.isenabled()
    with global_compiler_lock:
        before = context._internal_codegen
        context._internal_codegen = codegen = Codegen("microgpt")
        gc.disable()
        try:
            yield Program(codegen)
        finally:
            context._internal_codegen = before
            if collecting:
                gc.enable()


def fits() -> bool:
    """Whether this Numba is the known one, or compiles a small program this way that computes the right number."""
    return numba.version_info.short == KNOWN or check()


def check() -> bool:
    """Compile and run a program of two functions; False where anything fails, in whatever way."""
    try:
        square = jit(lambda x: x * x, error_model="numpy", pipeline_class=Pipeline)
        with program() as made:
            made.add("check", lambda p: square(p[0]) + p[1])
            data = made.emit(position_independent=False)
        owner, addresses = link(data, ["check"])
        return Kernel(addresses["check"], "qq", owner)(6, 5) == 41
    except Exception:
        return False
