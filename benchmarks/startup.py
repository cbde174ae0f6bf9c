"""Whole processes: 1000 steps of names, saved and sampled, with cached kernels; --help; all kernels from nothing.

python -m benchmarks.startup
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
    runs = 2 if options.quick else 6
    with tempfile.TemporaryDirectory() as folder:
        train = ["train", "names", "--data", str(names_file(options)), "--engine", options.engine]
        train += ["--steps", "20"] if options.quick else []
        whole = best([[*train, "--out", str(Path(folder) / str(i))] for i in range(runs)])
    help_ = best([["--help"]] * runs)
    dtypes = ("float32",) if options.quick else ("float32", "bfloat16", "float64")
    compiled = {dtype: min(compiling(dtype) for _ in range(1 if options.quick else 2)) for dtype in dtypes}
    return [
        Row("microgpt train names, whole process", "the clock", "s", whole, None, whole, "<=", 1.0, "s"),
        Row("microgpt --help", "the clock", "s", help_, None, help_, "<=", 0.2, "s"),
        *(
            Row(f"all kernels of {dtype}, compiled the first time", "the clock", "s", took, None, took, "<=", 10.0, "s")
            for dtype, took in compiled.items()
        ),
    ]


if __name__ == "__main__":
    script(family, __doc__)
