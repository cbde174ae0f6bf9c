"""The C programs of benchmarks/yardstick, compiled with gcc as their heads say; left out where there is no gcc."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, say

FLAGS = ("-O3", "-march=native", "-ffast-math")


@lru_cache(maxsize=4)
def program(name: str) -> Path | None:
    """The compiled program, in a temporary folder of this process; None without gcc."""
    gcc = shutil.which("gcc")
    if gcc is None:
        say("  gcc is not installed: the C yardstick is left out")
        return None
    out = _folder() / name
    source = ROOT / "benchmarks" / "yardstick" / f"{name}.c"
    subprocess.run([gcc, *FLAGS, "-o", str(out), str(source), "-lm"], check=True)
    return out


@lru_cache(maxsize=1)
def _folder() -> Path:
    _KEEP.append(tempfile.TemporaryDirectory(prefix="yardstick-"))
    return Path(_KEEP[0].name)


_KEEP: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def figures(name: str, *args: str) -> dict[str, float]:
    """What the program prints: pairs of a name and a number."""
    path = program(name)
    assert path is not None
    done = subprocess.run([str(path), *args], capture_output=True, text=True, check=True, timeout=300)
    return {key: float(value) for key, value in re.findall(r"(\w+) (-?[\d.]+(?:e[+-]?\d+)?)", done.stdout)}


class Names:
    """names.c as a side: it times itself (the best of seven runs) and has an order and initial weights of its own."""

    name = "C yardstick"

    def __init__(self, file: Path, steps: int, tail: float) -> None:
        self.file, self.steps, self.tail = file, steps, tail
        self.us: list[float] = []

    def reset(self) -> None:
        return None

    def train(self) -> np.ndarray:
        found = figures("names", str(self.file), str(self.steps))
        self.us.append(found["us_per_step"])
        off = abs(found["last50"] - self.tail)
        # Other names in another order: the mean of 50 losses spreads by about 0.07.
        assert off < 0.3, f"the yardstick's last 50 losses are off by {off:.2f}: not the same work"
        return np.zeros(0)

    @property
    def best(self) -> float:
        """Microseconds per step."""
        return min(self.us)
