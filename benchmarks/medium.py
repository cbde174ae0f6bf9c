"""Models of the middle size: 1,253,888 parameters (6 layers, 128 wide) and 10.7 million (6 layers, 384 wide).

    python -m benchmarks.medium

The share of the peak counts 6 operations per parameter and token against the multiply-adds that one core can do.
"""

from __future__ import annotations

from benchmarks import peak
from benchmarks.common import Options, Row, script
from benchmarks.names import against_peers
from benchmarks.work import TEN_MILLION, VIDYA, Work, sized, synthetic
from microgpt.model import flops_per_token


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


def family(options: Options) -> list[Row]:
    """The rows."""
    one = synthetic(sized(VIDYA, options), rows=1, steps=1 if options.quick else 10)
    many = synthetic(sized(VIDYA, options), rows=2 if options.quick else 16, steps=1 if options.quick else 2)
    big = synthetic(sized(TEN_MILLION, options), rows=1 if options.quick else 4, steps=1 if options.quick else 2)
    rows = []
    for name, work, target, part in (
        ("1.25 M, 1 x 128 a step, float32", one, 3.0, 65.0),
        ("1.25 M, 16 x 128 a step, float32", many, 3.0, None),
        ("10.7 M, 4 x 256 a step, float32", big, 2.2, None),
    ):
        row = against_peers(name, work, target, options)
        rows += [row, share(row, work, part)]
    return rows


if __name__ == "__main__":
    script(family, __doc__)
