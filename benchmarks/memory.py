"""Peak memory of a whole process that trains the 1.25 M model, 1 x 128 tokens per step, against PyTorch.

python -m benchmarks.memory
"""

from __future__ import annotations

import sys

from benchmarks.common import Options, Row, child, ratio, script
from benchmarks.race import Ours, installed
from benchmarks.work import VIDYA, synthetic
from microgpt.training.bench import peak_rss_mb


def worker(which: str, engine: str, steps: int) -> None:
    """Train and print the peak."""
    work = synthetic(VIDYA, rows=1, steps=steps)
    if which == "torch":
        from benchmarks.peers.torch_gpt import Torch

        theirs = Torch(work, sdpa=True)
        theirs.reset()
        theirs.train()
    else:
        mine = Ours(work, engine)
        mine.reset()
        mine.train()
    print(peak_rss_mb())


def family(options: Options) -> list[Row]:
    """The row."""
    steps = "2" if options.quick else "20"
    child("benchmarks.memory", "--worker", "ours", options.engine, steps)  # compiles, so that kernels are cached
    ours = float(child("benchmarks.memory", "--worker", "ours", options.engine, steps))
    theirs = None
    if options.peers and installed("torch"):
        theirs = float(child("benchmarks.memory", "--worker", "torch", options.engine, steps))
    value = ratio(ours, theirs)
    return [Row("1.25 M, 1 x 128 a step, peak memory", "PyTorch eager", "MB", ours, theirs, value, "<=", 1 / 3)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        script(family, __doc__)
