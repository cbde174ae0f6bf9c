"""Vectors of 64 or of 32 bytes, where a CPU has both: some lower their clock for the wide ones; no system tells which.

A loop of multiply-adds in registers takes turns with both widths, each for long enough that the clock follows. Narrow
ones are taken where they gain more than GAIN in every turn: AVX-512's masks, its 32 registers and its instructions for
exponentials and roots are worth some per cent, and a choice that noise made would cost a compilation.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from typing import Any

from microgpt.engines.common.hardware import compile_target, cpu
from microgpt.engines.fused.jit.code import link

WIDE, NARROW = 64, 32  # bytes per vector
GAIN = 1.1
TURNS = 3
LIMIT = 0.6  # seconds in which a turn may begin
SUMS = 12  # that do not wait for each other: more than are in flight, and they fit into 16 registers
ROUNDS = 1_000_000  # per call: 2 to 4 milliseconds
CALLS = 10  # per turn and width; the first SETTLING, in which the clock changes, do not count, of the others the best
SETTLING = 2


def narrower(dtype: str) -> dict[str, int]:
    """The field of the plan if narrower vectors than this CPU's widest are faster, by measuring for 0.1 to 0.2 s."""
    chip = cpu()
    if chip["vector_bits"] != 8 * WIDE or (dtype == "bfloat16" and chip["bfloat16"]):  # its pairs need the wide ones
        return {}
    found = rates()
    return {"vector": NARROW} if len(found) == TURNS and all(b > GAIN * a for a, b in found) else {}


def are_narrow(plan: Mapping[str, int]) -> bool:
    """Whether a plan has narrower vectors than the widest of this CPU, which can compute with them."""
    return plan.get("vector") == NARROW and bool(cpu()["vector_bits"] == 8 * WIDE)


def rates() -> list[tuple[float, float]]:
    """Numbers multiplied and added per nanosecond in wide and in narrow vectors, by turn; on a busy machine fewer."""
    loops = [(size, *_loop(size // 4)) for size in (WIDE, NARROW)]
    found, end = list[tuple[float, float]](), time.perf_counter() + LIMIT
    while len(found) < TURNS and time.perf_counter() < end:
        wide, narrow = (ROUNDS * SUMS * size / 4 / _time(run) for size, run, _owner in loops)
        found.append((wide, narrow))
    return found


def _time(run: Callable[[int, float], float]) -> int:
    """Nanoseconds of the fastest call behind the first."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        run(ROUNDS, 0.5)
        times.append(time.perf_counter_ns() - start)
    return max(1, min(times[SETTLING:]))


def _loop(lanes: int) -> tuple[Callable[[int, float], float], Any]:
    """A function of n and x that repeats a = a x + x n times for SUMS vectors a; and what keeps its code in memory."""
    import llvmlite.binding as llvm

    kind, sums = f"<{lanes} x float>", range(SUMS)
    starts = [f"<{', '.join([f'float {k}.0'] * lanes)}>" for k in sums]
    lines = [
        f"declare {kind} @llvm.fma.v{lanes}f32({kind}, {kind}, {kind})",
        "define float @loop(i64 %n, float %x) {",
        "begin:",
        f"%one = insertelement {kind} undef, float %x, i32 0",
        f"%w = shufflevector {kind} %one, {kind} undef, <{lanes} x i32> zeroinitializer",
        "br label %again",
        "again:",
        "%i = phi i64 [0, %begin], [%next, %again]",
        *(f"%a{k} = phi {kind} [{starts[k]}, %begin], [%b{k}, %again]" for k in sums),
        *(f"%b{k} = call {kind} @llvm.fma.v{lanes}f32({kind} %a{k}, {kind} %w, {kind} %w)" for k in sums),
        "%next = add i64 %i, 1",
        "%more = icmp slt i64 %next, %n",
        "br i1 %more, label %again, label %end",
        "end:",
        f"%s0 = fadd {kind} %b0, %b0",
        *(f"%s{k} = fadd {kind} %s{k - 1}, %b{k}" for k in sums[1:]),
        f"%result = extractelement {kind} %s{SUMS - 1}, i32 0",
        "ret float %result",
        "}",
    ]
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = compile_target()
    module = llvm.parse_assembly("\n".join(lines))
    module.triple = llvm.get_process_triple()
    target = llvm.Target.from_triple(module.triple).create_target_machine(name, features, opt=2)
    owner, addresses = link(bytes(target.emit_object(module)), ["loop"])
    return ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float)(addresses["loop"]), owner
