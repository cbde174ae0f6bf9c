"""A context of 1024 tokens against one of 128: time per token with the same tokens per step, and memory by the block.

    python -m benchmarks.long_context

Memory is the high-water mark of a fresh process that trains one row; by the last two doublings of the block it grows
with the power of the block that is printed: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from benchmarks.common import Options, Row, child, ratio, script
from benchmarks.race import Ours, race
from benchmarks.work import VIDYA, synthetic
from microgpt.config import Model
from microgpt.training.bench import peak_rss_mb


def vidya(block: int) -> Model:
    """The 1.25 M model at another context length; RoPE needs no more weights."""
    return VIDYA.model_copy(update={"block_size": block})


def time_per_token(options: Options) -> Row:
    """Eight rows of 128 tokens per step against one of 1024."""
    far = 256 if options.quick else 1024
    long = Ours(synthetic(vidya(far), rows=1, steps=1), options.engine)
    short = Ours(synthetic(vidya(128), rows=far // 128, steps=1), options.engine)
    short.name += ", block 128"
    long.name += f", block {far}"
    timings = race([_Quiet(long), _Quiet(short)], options)
    mine, theirs = (t.best * 1e6 / far for t in timings)
    name = "1.25 M, block 1024, time per token"
    return Row(name, "our block 128", "µs/token", mine, theirs, ratio(mine, theirs), "<=", 2.2, note=long.choice.name)


class _Quiet:
    """A side whose losses are of other rows, so that they are not compared."""

    def __init__(self, side: Ours) -> None:
        self.side, self.name, self.reset = side, side.name, side.reset

    def train(self) -> np.ndarray:
        self.side.train()
        return np.zeros(0)


def memory(options: Options) -> Row:
    """How the memory of a training process grows with the block."""
    blocks = (64, 128, 256) if options.quick else (512, 1024, 2048)
    megabytes = [float(child("benchmarks.long_context", "--memory", str(b), options.engine)) for b in blocks]
    a, b, c = megabytes
    power = math.log2(max(c - b, 1e-3) / max(b - a, 1e-3))
    note = "; ".join(f"{mb:.0f} MB at {block}" for block, mb in zip(blocks, megabytes, strict=True))
    return Row("1.25 M, memory by the block", "linear growth", "MB", c, b, power, "<=", 1.2, scale="power", note=note)


def family(options: Options) -> list[Row]:
    """The rows."""
    return [time_per_token(options), memory(options)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        side = Ours(synthetic(vidya(int(sys.argv[2])), rows=1, steps=2), sys.argv[3])
        side.reset()
        side.train()
        print(peak_rss_mb())
    else:
        script(family, __doc__)
