"""How much faster `--seeds K` trains K models than K commands one after another, starts included.

python -m benchmarks.seeds                          # 4 models of the scenario names, of 1,000, 100,000, 1,000,000 steps
python -m benchmarks.seeds --seeds 2 --steps 20000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(words: list[str]) -> float:
    """The wall-clock seconds of a command."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "microgpt", "train", "names", *words], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=(1_000, 100_000, 1_000_000))
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"load before: {load:.1f} on {os.cpu_count()} cores")
    for steps in options.steps:
        with tempfile.TemporaryDirectory() as folder:
            common = ["--steps", str(steps), "--engine", "fused"]
            seconds(["--steps", "1", "--engine", "fused", "--out", f"{folder}/warm"])  # compiles what is not kept
            alone = sum(
                seconds([*common, "--seed", str(42 + i), "--out", str(Path(folder) / str(i))])
                for i in range(options.seeds)
            )
            together = seconds([*common, "--seeds", str(options.seeds), "--out", f"{folder}/together"])
        print(f"{options.seeds} models of {steps:,} steps, one after another: {alone:.1f} s", end=", ")
        print(f"side by side (--seeds {options.seeds}): {together:.1f} s, {alone / together:.2f} times as fast")


if __name__ == "__main__":
    main()
