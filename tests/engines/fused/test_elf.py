"""Images of machine code: made from an object file, placed in memory, or refused; else LLVM loads the object."""

from __future__ import annotations

import ctypes
import math

import pytest

pytest.importorskip("numba")

import llvmlite.binding as llvm

from microgpt.engines.fused.jit import elf
from microgpt.engines.fused.jit.code import NAMES, Code, Kernel

IMAGES = pytest.mark.hardware(elf.possible(), "images of code: Linux on x86-64 (elsewhere LLVM loads it)")


def emitted(text: str) -> bytes:
    """The object code of LLVM's assembly."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    module = llvm.parse_assembly(f'target triple = "{llvm.get_process_triple()}"\n{text}')
    return bytes(target.create_target_machine(reloc="pic", codemodel="small").emit_object(module))


CONSTANTS = """
declare double @log(double)
define double @f(double %x) {
  %y = fmul double %x, 3.25
  %z = call double @log(double %y)
  %w = call double @g(double %z)
  ret double %w
}
define internal double @g(double %x) noinline {
  %y = fadd double %x, 0.125
  ret double %y
}
"""
ADDRESSES = """
@table = global ptr @f
define ptr @f() {
  %y = load ptr, ptr @table
  ret ptr %y
}
"""


@IMAGES
def test_an_image_has_its_constants_and_calls_what_lies_elsewhere() -> None:
    made = elf.image(emitted(CONSTANTS), ("f",))
    assert made is not None
    assert set(made.calls) == {"log"}
    owner, start = elf.place(made)
    found = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(start + made.entry_points["f"])(2.0)
    assert found == math.log(6.5) + 0.125
    assert len(owner) == len(made.data)


@IMAGES
def test_what_an_image_cannot_hold_is_none() -> None:
    assert elf.image(emitted(ADDRESSES), ("f",)) is None


def numbered() -> Code:
    """Object code whose kernels return their number."""
    functions = [f"define i64 @{name}(ptr %p) {{ ret i64 {i} }}" for i, name in enumerate(NAMES)]
    return Code(16, False, dict.fromkeys(NAMES, "q"), None, {}, emitted("\n".join(functions)))


def test_object_code_is_loaded_by_llvm() -> None:
    kernels = numbered().load()
    assert [kernels.train(5), kernels.decode(5), kernels.generate(5), kernels.generate_batch(5)] == [0, 1, 2, 3]


def test_a_kernel_runs_without_the_interpreter_lock() -> None:
    """Here a function of Python's own that tells whether its caller holds it."""
    check = ctypes.pythonapi.PyGILState_Check
    assert check() == 1
    assert Kernel(ctypes.cast(check, ctypes.c_void_p).value or 0, "q", check)(0) == 0


def test_llvm_loads_nothing_where_memory_may_not_be_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would crash: an error of finalize_object is lost."""

    def refused() -> None:
        raise OSError(13, "cannot allocate executable memory")

    code = numbered()
    monkeypatch.setattr(llvm, "check_jit_execution", refused)
    with pytest.raises(OSError, match="executable memory"):
        code.load()
