"""Whole processes: 1000 steps of names, saved and sampled, with cached kernels; --help; all kernels from nothing.

python -m benchmarks.startup
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import ROOT, Options, Row, script
from benchmarks.work import names_file


def seconds(*args: str) -> float:
    """The time of `microgpt ARGS` from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "microgpt", *args], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - start


def compiling(dtype: str) -> float:
    """The time of a process that compiles every kernel of the fused engine for a float type and writes it down."""
    program = f"from microgpt.engines.fused.jit import cache; cache.load({dtype!r})"
    with tempfile.TemporaryDirectory() as empty:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"MICROGPT_CACHE_DIR": empty}, check=True
        )
        return time.perf_counter() - start


def best(make: Sequence[Sequence[str]]) -> float:
    """The best of several runs after the first, which may compile."""
    times = [seconds(*args) for args in make]
    return min(times[1:] or times)


def family(options: Options) -> list[Row]:
    """The rows."""
    runs, times = 2 if options.quick else 6, 1 if options.quick else 2

    def whole() -> float:
        with tempfile.TemporaryDirectory() as folder:
            train = ["train", "names", "--data", str(names_file(options)), "--engine", options.engine]
            train += ["--steps", "20"] if options.quick else []
            return best([[*train, "--out", str(Path(folder) / str(i))] for i in range(runs)])

    works: list[tuple[str, Callable[[], float], float]] = [
        ("microgpt train names, whole process", whole, 1.0),
        ("microgpt --help", lambda: best([["--help"]] * runs), 0.2),
    ]
    for dtype in ("float32",) if options.quick else ("float32", "bfloat16", "float64"):
        name = f"all kernels of {dtype}, compiled the first time"
        works.append((name, lambda dtype=dtype: min(compiling(dtype) for _ in range(times)), 10.0))  # type: ignore[misc]
    rows = []
    for name, measure, target in works:
        if options.wants(name):
            took = measure()
            rows.append(Row(name, "the clock", "s", took, None, took, "<=", target, "s"))
    return rows


if __name__ == "__main__":
    script(family, __doc__)
