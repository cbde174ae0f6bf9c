"""Whole processes as a user starts them: 1000 steps of names, saved and sampled, with cached kernels; and --help.

python -m benchmarks.startup
"""

from __future__ import annotations

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
    return [
        Row("microgpt train names, whole process", "the clock", "s", whole, None, whole, "<=", 1.0, "s"),
        Row("microgpt --help", "the clock", "s", help_, None, help_, "<=", 0.2, "s"),
    ]


if __name__ == "__main__":
    script(family, __doc__)
