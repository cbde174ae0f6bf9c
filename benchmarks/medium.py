"""Models of the middle size: 1,253,888 parameters (6 layers, 128 wide) and 10.7 million (6 layers, 384 wide).

    python -m benchmarks.medium

The share of the peak counts 6 operations per parameter and token against the multiply-adds that one core can do.
"""

from __future__ import annotations

import math
from contextlib import suppress

from benchmarks import peak
from benchmarks.common import Options, Row, script
from benchmarks.names import against_peers
from benchmarks.race import chosen
from benchmarks.work import TEN_MILLION, VIDYA, Work, sized, synthetic
from microgpt.engines.ladder import plan
from microgpt.errors import MachineError, UsageError
from microgpt.model import flops_per_token

WORKS = (  # name, model, rows per step, steps, times faster than the peers, share of the peak
    ("1.25 M, 1 x 128 per step, float32", VIDYA, 1, 10, 3.0, 65.0),
    ("1.25 M, 16 x 128 per step, float32", VIDYA, 16, 2, 3.0, None),
    ("10.7 M, 4 x 256 per step, float32", TEN_MILLION, 4, 2, 2.2, None),
)


def share(row: Row, work: Work, target: float | None) -> Row:
    """Our part of the float32 peak of one core, as a row of its own."""
    flops = flops_per_token(work.model) * work.feed.n_targets / work.steps
    reached = flops / (row.ours * 1e-6) if row.ours else None
    return Row(
        row.work,
        "float32 peak of the core",
        "GFLOP/s",
        reached / 1e9 if reached else None,
        peak.measured() / 1e9,
        100 * reached / peak.measured() if reached else None,
        target=target,
        scale="%",
        note=row.note,
    )


def tuned(work: Work, options: Options) -> None:
    """The plan of our engine is measured first, once per machine, as a run of a minute does it."""
    with suppress(MachineError, UsageError):  # which the race says
        plan(chosen(work, options.engine, "float32"), work.model, math.inf)


def family(options: Options) -> list[Row]:
    """The rows."""
    rows = []
    for name, model, count, steps, target, part in WORKS:
        if not options.wants(name):
            continue
        if options.quick:
            count, steps = min(count, 2), 1
        work = synthetic(sized(model, options), rows=count, steps=steps)
        if not options.quick:
            tuned(work, options)
        row = against_peers(name, work, target, options)
        rows += [row, share(row, work, part)]
    return rows


if __name__ == "__main__":
    script(family, __doc__)
