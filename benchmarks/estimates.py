"""Estimated seconds per training step against measured ones: the machine is measured anew, then each model runs.

python -m benchmarks.estimates

The names model with names of 7 tokens, Vidya's stage 10 with lines of 24 tokens, its model with full rows of 128, and a
10 M model. The ratio of the larger to the smaller is at most 1.5, since a run's expected time is printed before it
starts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from benchmarks.common import Options, Row, say, script
from benchmarks.race import Ours
from benchmarks.work import ADAM, TEN_MILLION, VIDYA, Work, sized, text, values
from microgpt.config import Model
from microgpt.engines.ladder import LADDER, calibrate
from microgpt.feed import pack

NAMES = Model(vocab_size=27)
# Name, model, tokens per row, rows per step.
CASES = [
    ("names", NAMES, 7, 1),
    ("1.25 M, rows of 24", VIDYA.model_copy(update={"tie_embeddings": False}), 24, 1),
    ("1.25 M, rows of 128", VIDYA, 128, 1),
    ("1.25 M, 4 rows of 128", VIDYA, 128, 4),
    ("10 M, 4 rows of 256", TEN_MILLION, 256, 4),
]


def steps_of(model: Model, length: int, rows: int, steps: int) -> Work:
    """Steps on synthetic text."""
    tokens = text(model.vocab, rows * steps, length + 1, 1)
    return Work(model, ADAM, values(model), pack(tokens.tolist(), rows_per_step=rows), np.full(steps, 1e-4))


def measured(side: Ours, seconds: float, clock: Callable[[], float]) -> float:
    """Seconds per step of calls of about a tenth of a second, one after another as in a run.

    Their mean, not the fastest: a shared machine changes its pace from one second to the next, and a run goes through
    all of it.
    """
    side.reset()
    side.train()
    start, stop, calls = clock(), time.perf_counter() + seconds, 0
    while calls < 3 or time.perf_counter() < stop:
        side.train()
        calls += 1
    return (clock() - start) / (calls * side.work.steps)


def family(options: Options) -> list[Row]:
    """A row per model and engine."""
    names = [name for name in LADDER if "float32" in LADDER[name].dtypes and len(LADDER[name].devices) == 1]
    names = names if options.engine == "auto" else [options.engine]
    rows, clock = [], time.thread_time if options.cpu_time else time.perf_counter
    for name in names:
        start = time.perf_counter()
        calibrate(name, anew=not options.quick)
        say(f"  {name}: measured in {time.perf_counter() - start:.2f} s")
        for label, model, length, count in CASES:
            model = sized(model, options)
            dtype = LADDER[name].dtypes[0]
            first = Ours(steps_of(model, length, count, 1), name, dtype, threads=0)
            expected = first.choice.seconds_per_step
            if expected > options.seconds:
                continue
            steps = 1 if options.quick else max(1, min(500, int(0.1 / expected)))
            found = measured(
                Ours(steps_of(model, length, count, steps), name, dtype, threads=0), options.seconds, clock
            )
            ratio = max(found / expected, expected / found)
            say(f"  {name:10} {label:24} {1e6 * expected:12.1f} µs expected, {1e6 * found:12.1f} measured: {ratio:.2f}")
            rows.append(
                Row(
                    f"{label}, time per step",
                    "estimate",
                    "µs",
                    1e6 * found,
                    1e6 * expected,
                    ratio,
                    "<=",
                    1.5,
                    note=name,
                )
            )
    return rows


if __name__ == "__main__":
    script(family, __doc__, cores=os.cpu_count() or 1)
