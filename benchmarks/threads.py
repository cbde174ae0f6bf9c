"""Our engine with two threads against one, on two cores; and two models, a thread each, which never wait.

    python -m benchmarks.threads

What two models reach is what the machine allows in this hour: its cores share clock, cache and memory, here perhaps
with other guests.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from benchmarks.apart import Side
from benchmarks.common import Options, Row, ratio, script
from benchmarks.race import Ours, ours, race
from benchmarks.work import TEN_MILLION, VIDYA, Work, sized, synthetic


class Twins:
    """Two engines at once, each with one thread and a model of its own."""

    name = "two models, a thread each"

    def __init__(self, work: Work, engine: str) -> None:
        self.pair = [Ours(work, engine), Ours(work, engine)]

    def reset(self) -> None:
        """Both back to the initial weights."""
        for one in self.pair:
            one.reset()

    def train(self) -> np.ndarray:
        """Both at the same time; the losses of one, which the other's must equal."""
        with ThreadPoolExecutor(len(self.pair)) as pool:
            first, second = pool.map(Ours.train, self.pair)
        assert np.array_equal(first, second), "two engines side by side disturb each other"
        return first


def family(options: Options) -> list[Row]:
    """The rows."""
    many = synthetic(sized(VIDYA, options), rows=2 if options.quick else 16, steps=1 if options.quick else 2)
    big = synthetic(sized(TEN_MILLION, options), rows=1 if options.quick else 4, steps=1 if options.quick else 2)
    rows = []
    for size, work in (("1.25 M, 16 x 128", many), ("10.7 M, 4 x 256", big)):
        row = Row(f"{size} a step, 2 threads", "our one thread", "µs/step", target=1.85)
        two, one = (ours(work, options.engine, threads=n) for n in (2, 1))
        if two is None or one is None or (os.cpu_count() or 1) < 2:
            rows.append(replace(row, note="no engine, or one core only"))
            continue
        sides: list[Side] = [two, one, Twins(work, options.engine)]
        fast, slow, both = (t.best * 1e6 / work.steps for t in race(sides, replace(options, cpu_time=False)))
        limit = Row(f"{size} a step, two models at once", row.against, row.unit, both / 2, slow, ratio(slow, both / 2))
        rows += [
            replace(row, ours=fast, theirs=slow, value=ratio(slow, fast), note=two.name),
            replace(limit, note="nothing is shared"),
        ]
    return rows


if __name__ == "__main__":
    script(family, __doc__, cores=2)
