"""What one core can do at most: multiply-adds per second from registers, and bytes per second from caches and memory.

The loop keeps independent accumulators in vector registers, more of them than multiply-adds are in flight, so the
units never wait. It is written in LLVM's own terms, because a compiler may drop or split a plain loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

ACCUMULATORS = 12  # registers: 16 of 256 bits or 32 of 512; in flight: 4 cycles times 2 units


def _kernels(bits: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    from llvmlite import ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    lanes = bits // 32
    vector, index = ir.VectorType(ir.FloatType(), lanes), ir.IntType(64)

    @intrinsic
    def multiply_add(typing: Any, n: Any, x: Any) -> Any:
        """Sum of ACCUMULATORS vectors after n rounds of a = a x + x."""

        def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
            lane0 = b.insert_element(ir.Constant(vector, ir.Undefined), args[1], ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            wide = b.shuffle_vector(lane0, lane0, zeros)
            kind = ir.FunctionType(vector, [vector] * 3)
            # one instruction, or two where the CPU has no fused one
            fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fmuladd.v{lanes}f32")
            entry, loop, done = b.block, b.append_basic_block("loop"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            i = b.phi(index)
            i.add_incoming(ir.Constant(index, 0), entry)
            acc = [b.phi(vector) for _ in range(ACCUMULATORS)]
            last = [b.call(fma, [a, wide, wide]) for a in acc]
            for k, (a, new) in enumerate(zip(acc, last, strict=True)):
                a.add_incoming(ir.Constant(vector, [float(k)] * lanes), entry)
                a.add_incoming(new, loop)
            following = b.add(i, ir.Constant(index, 1))
            i.add_incoming(following, loop)
            b.cbranch(b.icmp_signed("<", following, args[0]), loop, done)
            b.position_at_end(done)
            total = last[0]
            for new in last[1:]:
                total = b.fadd(total, new)
            return b.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return types.float32(types.intp, types.float32), codegen

    @njit
    def flops(n: int, x: float) -> float:
        return multiply_add(n, np.float32(x))

    @njit(fastmath=True)
    def read(a: Any) -> Any:
        total = np.float32(0)
        for i in range(len(a)):
            total += a[i]
        return total

    return flops, read


def _best(call: Callable[[], Any], runs: int = 20) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@lru_cache(maxsize=1)
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from microgpt.engines.common.hardware import cpu

    return _kernels(max(128, cpu()["vector_bits"]))


def rate(rounds: int, runs: int = 1) -> float:
    """Float32 operations per second of one core, the best of some runs of so many rounds of the loop."""
    from microgpt.engines.common.hardware import cpu

    flops, lanes = _compiled()[0], max(128, cpu()["vector_bits"]) // 32
    return 2.0 * rounds * ACCUMULATORS * lanes / _best(lambda: flops(rounds, 0.5), runs)


@lru_cache(maxsize=1)
def measured() -> float:
    """Float32 operations per second of one core, the best of 20 runs of about 2 ms."""
    rate(1)
    return rate(1_500_000, 20)


@lru_cache(maxsize=16)
def bandwidth(size: int = 1 << 28) -> float:
    """Bytes per second that one core reads, over and over, from this many bytes: from the cache that they fit in."""
    read, a = _compiled()[1], np.ones(max(1024, size // 4), np.float32)
    read(a)
    times = max(1, (1 << 26) // a.nbytes)
    return times * a.nbytes / _best(lambda: [read(a) for _ in range(times)], 5)
