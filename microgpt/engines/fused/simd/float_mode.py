"""The floating-point mode of a thread: a kernel sets its own, whatever its caller's is, and restores that.

Below its smallest normal number (1e-38 in float32) a float is *denormal*: it has fewer digits, and on many CPUs an
operation on it takes some 150 cycles. Adam's second moments fall there. So the kernels of float32 and bfloat16 take
denormals for zero, as operands and as results; those of float64, in which the model is defined, keep them. All round to
the nearest and trap nothing, so that their numbers depend on nothing that other libraries did to the thread.

The mode is MXCSR on x86-64 (Intel's Software Developer's Manual, volume 1, section 10.2.3: FTZ is bit 15, DAZ bit 6)
and FPCR on ARM (Arm Architecture Reference Manual, section C5.2.8: FZ is bit 24).
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types

from microgpt.engines.fused.jit.functions import builder
from microgpt.engines.fused.simd.intrinsics import I32, INT, declare, effect

X86, ARM = (0x1F80, 0x1F80 | 1 << 15 | 1 << 6), (0, 1 << 24)  # a mode that keeps denormals, one that flushes them
MODES = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}  # by LLVM's name of the architecture
POINTER, VOID = ir.IntType(8).as_pointer(), ir.VoidType()


def architecture() -> str:
    """That of this process, by LLVM's name."""
    return str(llvm.get_process_triple().partition("-")[0])


def kernel_mode(flushing: bool, machine: str = "") -> int | None:
    """The mode of kernels that flush denormals or keep them; None where the machine's register is not known here."""
    modes = MODES.get(machine or architecture())
    return modes[flushing] if modes else None


def read(b: ir.IRBuilder, machine: str = "") -> ir.Value:
    """The thread's mode, an i64."""
    if MODES[machine or architecture()] is ARM:
        return b.call(declare(b.module, ir.FunctionType(INT, []), "llvm.aarch64.get.fpcr"), [])
    place = _place(b)
    b.call(declare(b.module, ir.FunctionType(VOID, [POINTER]), "llvm.x86.sse.stmxcsr"), [b.bitcast(place, POINTER)])
    return b.zext(b.load(place), INT)


def write(b: ir.IRBuilder, mode: ir.Value, machine: str = "") -> None:
    """Set the thread's mode."""
    if MODES[machine or architecture()] is ARM:
        b.call(declare(b.module, ir.FunctionType(VOID, [INT]), "llvm.aarch64.set.fpcr"), [mode])
        return
    place = _place(b)
    b.store(b.trunc(mode, I32), place)
    b.call(declare(b.module, ir.FunctionType(VOID, [POINTER]), "llvm.x86.sse.ldmxcsr"), [b.bitcast(place, POINTER)])


def _place(b: ir.IRBuilder) -> ir.Value:
    """Memory for the 32 bits that go to or come from the register."""
    with b.goto_entry_block():
        return b.alloca(I32)


def enter(b: ir.IRBuilder, flushing: bool, machine: str = "") -> ir.Value:
    """Set the mode of kernels; the mode before, or 0 on a machine that is not known here, whose mode is left alone."""
    mode = kernel_mode(flushing, machine)
    if mode is None:
        return INT(0)
    before = read(b, machine)
    write(b, INT(mode), machine)
    return before


def leave(b: ir.IRBuilder, before: ir.Value, machine: str = "") -> None:
    """Restore the mode that `enter` found."""
    if (machine or architecture()) in MODES:
        write(b, before, machine)


def switches(flushing: bool) -> tuple[Any, Any]:
    """`enter` and `leave` for compiled code: enter() -> the mode before, leave(the mode before)."""

    def emit_enter(typing: Any) -> Any:
        return types.int64(), lambda context, b, sig, args: enter(b, flushing)

    def emit_leave(typing: Any, before: Any) -> Any:
        return effect(types.void(types.int64), leave)

    return builder(emit_enter), builder(emit_leave)
