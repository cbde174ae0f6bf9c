"""The table of targets for fast CPUs: each row's measured ratio, its target, and whether it is met.

    python -m benchmarks.targets                    all rows; some ten minutes, on a quiet machine
    python -m benchmarks.targets --only decoding    the rows whose name has this in it; may be repeated
    python -m benchmarks.targets --quick            the smallest work that runs everything: a test, no figures

Each family of benchmarks runs in a process of its own, and there each peer in one of its own; a peer that is not
installed is named and left out. A row within 3 % of its target counts as met. On a CPU with 512-bit vectors the first
row has the stricter of its two targets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import peak
from benchmarks.__main__ import run
from benchmarks.common import Row, arguments, describe, markdown, pin, ratio
from benchmarks.work import VIDYA
from microgpt.model import flops_per_token, n_params

SLACK = 0.03  # of a target, the noise of the best of five
Figure = Callable[[Row], Row]


@dataclass(frozen=True)
class Target:
    """A row of the table: the row of a family, found by its work and by whom it is held against, with its target."""

    name: str
    family: str
    work: str  # how the family's row begins
    against: str  # in the family's row: part of its name, or empty for any
    goal: float
    rule: str = ">="
    scale: str = "×"
    figure: Figure = lambda row: row


def speed_ratio(row: Row) -> Row:
    """Ours to theirs, of rows whose own value is tokens per second."""
    return replace(row, value=ratio(row.ours, row.theirs))


def of_bandwidth(row: Row) -> Row:
    """The share of the tokens per second at which one core could read all weights, from the cache that holds them."""
    size = 4 * n_params(VIDYA)
    limit = peak.bandwidth(size) / size
    return replace(
        row, against="bandwidth of the core", theirs=limit, value=100 * row.ours / limit if row.ours else None
    )


def of_peak(row: Row) -> Row:
    """The share of the tokens per second that the core's multiply-adds allow: a third of a training step's."""
    limit = peak.measured() / (flops_per_token(VIDYA) / 3)
    return replace(row, against="float32 peak", theirs=limit, value=100 * row.ours / limit if row.ours else None)


TARGETS = (
    Target("names float32, 1 document per step / C yardstick", "names", "names, 1 document", "C yardstick", 0.5, "<="),
    Target("names, 64 documents / best framework", "names", "names, 64", "", 9.0),
    Target("alice / best framework", "alice", "alice", "", 5.5),
    Target("1.25 M, 1 x 128 / best framework", "medium", "1.25 M, 1 x", "framework", 2.4),
    Target("1.25 M, 1 x 128 of the peak", "medium", "1.25 M, 1 x", "peak", 65.0, scale="%"),
    Target("1.25 M, 16 x 128 / best framework", "medium", "1.25 M, 16 x", "framework", 2.0),
    Target("1.25 M, 16 x 128 of the peak", "medium", "1.25 M, 16 x", "peak", 68.0, scale="%"),
    Target("10.7 M, 4 x 256 / best framework", "medium", "10.7 M", "framework", 1.3),
    Target("10.7 M, 4 x 256 of the peak", "medium", "10.7 M", "peak", 75.0, scale="%"),
    Target("decoding 1.25 M, 1 / bandwidth", "decoding", "1.25 M, decoding, batch of 1, float32", "", 70.0,
           scale="%", figure=of_bandwidth),
    Target("decoding 1.25 M, 32 / peak", "decoding", "1.25 M, decoding, batch of 32", "", 60.0,
           scale="%", figure=of_peak),
    Target("kernels of float32, the first time", "startup", "all kernels of float32", "", 10.0, "<=", "s"),
    Target("names, sampling one after another / C", "sampling", "sampling names, one", "", 1.5, figure=speed_ratio),
)  # fmt: skip


def found(target: Target, rows: Sequence[Row], vector_bits: int) -> Row:
    """The target's row, with a figure where the family has one."""
    goal = 0.45 if target.rule == "<=" and target.family == "names" and vector_bits >= 512 else target.goal
    bound = goal * (1 + SLACK if target.rule == "<=" else 1 - SLACK)
    empty = Row(target.name, target.against or "-", "-", target=bound, rule=target.rule, scale=target.scale)
    for row in rows:
        peak_row = "peak" in row.against
        wanted = "peak" in target.against if target.family == "medium" else True
        named = target.against in ("", "framework", "peak") or target.against in row.against
        if row.work.startswith(target.work) and named and (target.family != "medium" or peak_row == wanted):
            got = target.figure(row)
            note = row.note if goal == bound else f"target {goal:g} less noise of 3 %"
            return replace(got, work=target.name, target=bound, rule=target.rule, scale=target.scale, note=note)
    return replace(empty, note=f"benchmarks.{target.family} has no such row here")


def table(wanted: Sequence[Target], flags: list[str]) -> tuple[dict[str, Any] | None, list[Row]]:
    """The machine and the rows of these targets; each family runs once."""
    where, rows = None, dict[str, list[Row]]()
    for family in dict.fromkeys(target.family for target in wanted):
        done = run(family, flags)
        where = where or (done and done[0])
        rows[family] = done[1] if done else []
    bits = where["vector_bits"] if where else 0
    return where, [found(target, rows[target.family], bits) for target in wanted]


def main() -> int:
    """Measure, print; 1 where a target is missed or a row has no figure, 0 in --quick."""
    parser = arguments(__doc__)
    parser.add_argument("--only", action="append", metavar="ROW", help="rows whose name has this in it")
    args = parser.parse_args()
    wanted = [t for t in TARGETS if not args.only or any(part in t.name for part in args.only)]
    if not wanted:
        parser.error(f"no row has {' or '.join(args.only)} in it; there are: {'; '.join(t.name for t in TARGETS)}")
    pin()
    flags = ["--engine", args.engine, "--seconds", str(args.seconds), *["--quick"] * args.quick]
    flags += ["--no-peers"] * (not args.peers) + ["--cpu-time"] * args.cpu_time
    where, rows = table(wanted, flags)
    if where:
        print(f"{describe(where)}\ncommit {where['commit']}, {where['date']}\n")
    print(markdown(rows), end="")
    met = [row.met is True for row in rows]
    print(f"{met.count(True)} of {len(met)} targets met")
    return 0 if args.quick or all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
