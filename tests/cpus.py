"""CPUs that code is compiled for, beside this one, and the fused rung's suite under each of them: `make test-cpus`.

LLVM can be told to compile for an older CPU than the one at hand, which runs that code as well. So one machine tests
AVX-512 without BF16, AVX2, and the plain x86-64 that all of them have, whose vectors are as long as ARM's.

    python -m tests.cpus [NAME ...]      all, or those named; `native` is this CPU
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SUITE = ["tests/engines", "-k", "fused or generate"]


class Cpu(NamedTuple):
    """A CPU as LLVM knows it."""

    name: str
    features: tuple[str, ...]
    vector_bytes: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that choose it. A name alone would keep the features of the CPU at hand."""
        return {"NUMBA_CPU_NAME": self.name, "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in self.features)}

    @property
    def runs_here(self) -> bool:
        """Whether this machine has its instructions."""
        import llvmlite.binding as llvm

        try:
            here = llvm.get_host_cpu_features()
        except RuntimeError:  # LLVM does not know this CPU's
            return False
        return all(here.get(name) for name in self.features)


SSE2 = ("fxsr", "sse", "sse2")
AVX2 = (
    *SSE2, "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe",
)  # fmt: skip
AVX512 = (*AVX2, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512vnni")
CPUS = {cpu.name: cpu for cpu in (Cpu("cascadelake", AVX512, 64), Cpu("haswell", AVX2, 32), Cpu("x86-64", SSE2, 16))}


def main(words: list[str]) -> int:
    """Run the suite for each CPU as CI does; the exit status is the number of CPUs on which it failed."""
    failed = 0
    for name in words or ["native", *CPUS]:
        if name != "native" and not CPUS[name].runs_here:
            print(f"{name}: this machine lacks its instructions", flush=True)
            continue
        environment = {} if name == "native" else CPUS[name].environment
        command = [sys.executable, "-m", "pytest", *SUITE, "-n", "auto", "-p", "no:cacheprovider"]
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "CI": "1", **environment}, stdout=-1, text=True, check=False
        )
        failed += done.returncode != 0
        seconds = time.perf_counter() - start
        print(f"{done.stdout}{name}: {'FAILED' if done.returncode else 'passed'}, {seconds:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
