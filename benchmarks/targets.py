"""The table of targets for fast CPUs: each row's measured ratio, its target, and whether it is met.

    python -m benchmarks.targets                      all rows, on a quiet machine; never more than 15 minutes
    python -m benchmarks.targets --only "decoding"    the rows whose name has this in it; may be repeated
    python -m benchmarks.targets --list               the names of the rows
    python -m benchmarks.targets --quick              the smallest work that runs everything: a test, no figures

Each row runs in a process of its own, and there each peer in one of its own; where a peer is not installed, its figure
is "-". A row within 3 % of its target counts as met. Some rows have a higher target too, reached on the machines
with the fastest caches; the note says whether it is met, since no size that a system tells decides which machine that
is. Which of two targets the first row has follows from the width of the vectors. Rows with AVX2 alone restrict our side
and the peers: PyTorch with its libraries oneDNN and MKL, and XLA.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import peak
from benchmarks.__main__ import run
from benchmarks.common import Row, arguments, cells, describe, markdown, number, pin, ratio, say
from benchmarks.work import VIDYA
from microgpt.files import cache_folder
from microgpt.model import flops_per_token, n_params
from tests.cpus import CPUS

SLACK = 0.03  # of a target, the noise of the best of five
LIMIT = 14 * 60  # seconds after which no row begins, and the one at work is stopped
Figure = Callable[[Row], Row]


@dataclass(frozen=True)
class Target:
    """A row of the table: the row of a family, found by its work and by whom it is held against, with its target."""

    name: str
    family: str
    work: str  # the family's row has it in its name
    goal: float
    high: float | None = None  # the target on the machines with the fastest caches
    rule: str = ">="
    scale: str = "×"
    against: str = ""  # in the family's row; empty: any peer
    figure: Figure = lambda row: row
    avx2: bool = False  # ours and the peers are held to AVX2

    def fits(self, row: Row) -> bool:
        """Whether this is the family's row."""
        named = self.against in row.against if self.against else "peak" not in row.against
        return self.work in row.work and named


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


ONE, MANY, LARGE = "1.25 M, 1 x 128", "1.25 M, 16 x 128", "10.7 M, 4 x 256"
NAMES, C, PEAK = "names float32, 1 document per step / C", "C yardstick", "peak"
TARGETS = (
    Target(NAMES, "names", "1 document per step, float32", 0.5, rule="<=", against=C),
    Target("names, 64 documents / best framework", "names", "names, 64 documents", 9.0),
    Target("alice / best framework", "alice", "alice", 5.5),
    Target(f"{ONE} / best framework", "medium", ONE, 2.4, 3.0),
    Target(f"{ONE}, of the peak", "medium", ONE, 65.0, 68.0, scale="%", against=PEAK),
    Target(f"{MANY} / best framework", "medium", MANY, 2.0, 3.0),
    Target(f"{MANY}, of the peak", "medium", MANY, 68.0, 70.0, scale="%", against=PEAK),
    Target(f"{LARGE} / best framework", "medium", LARGE, 1.3, 2.2),
    Target(f"{LARGE}, of the peak", "medium", LARGE, 75.0, 80.0, scale="%", against=PEAK),
    Target("decoding 1.25 M, one / bandwidth", "decoding", "batch of 1, float32", 70.0, scale="%", figure=of_bandwidth),
    Target("decoding 1.25 M, one, int8 / float32", "decoding", "batch of 1, int8", 1.8),
    Target("decoding 1.25 M, 32 / peak", "decoding", "batch of 32, float32", 60.0, scale="%", figure=of_peak),
    Target("kernels of float32, the first time", "startup", "all kernels of float32", 10.0, 7.0, "<=", "s"),
    Target("names, sampling one after another / C", "sampling", "one after another", 1.5, figure=speed_ratio),
    *(
        Target(f"AVX2 alone, {work} / best framework", "medium", work, 1.5, avx2=True) for work in (ONE, MANY, LARGE)
    ),
)  # fmt: skip
WIDE_GOALS = {NAMES: 0.45}  # with vectors of 512 bits


def avx2() -> dict[str, str] | None:
    """The variables that hold our side and the peers to AVX2; None on a machine without it.

    The kernels have a cache of their own, in which the plan of this kind of machine code is kept.
    """
    cpu = CPUS["haswell"]
    if not cpu.runs_here:
        return None
    return cpu.environment | {
        "MICROGPT_CACHE_DIR": str(cache_folder("avx2")),
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip(),
    }


def found(target: Target, rows: Sequence[Row], vector_bits: int) -> Row:
    """The target's row, with a figure where the family has one."""
    goal = WIDE_GOALS.get(target.name, target.goal) if vector_bits >= 512 else target.goal
    row = next((target.figure(row) for row in rows if target.fits(row)), None)
    if row is None:
        row = Row("", "-", "-", note=f"benchmarks.{target.family} has no such row here")
    row = replace(row, work=target.name, target=goal, rule=target.rule, scale=target.scale, slack=SLACK)
    if target.high is None or row.value is None:
        return row
    met = "met" if replace(row, target=target.high).met else "missed"
    note = f"{row.note}; " if row.note else ""
    return replace(row, note=f"{note}the higher target {number(target.high)} {target.scale}: {met}")


def measured(
    wanted: Sequence[Target], flags: list[str], limit: float, run: Callable[..., Any] = run
) -> tuple[dict[str, Any] | None, list[Row]]:
    """The machine and the rows of these targets. Each work runs once, for all of its targets."""
    where, rows, end = None, dict[str, Row](), time.monotonic() + limit
    for family, work, narrow in dict.fromkeys((t.family, t.work, t.avx2) for t in wanted):
        environment, left, done = avx2() if narrow else {}, end - time.monotonic(), None
        missing = "this CPU has no AVX2" if environment is None else "no time was left" if left < 1 else ""
        if not missing:
            done = run(family, [*flags, "--only", work], environment, left)
        where = where or (done and done[0])
        bits = done[0]["vector_bits"] if done else 0
        for target in wanted:
            if (target.family, target.work, target.avx2) == (family, work, narrow):
                row = found(target, done[1] if done else [], bits)
                rows[target.name] = replace(row, note=missing) if missing else row
                say(" | ".join(cells(rows[target.name])))
    return where, [rows[target.name] for target in wanted]


def main() -> int:
    """Measure, print; 1 where a target is missed or a row has no figure, 0 in --quick."""
    parser = arguments(__doc__)
    parser.set_defaults(seconds=2.0)  # the best of at least five rounds in any case
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    args = parser.parse_args()
    wanted = [t for t in TARGETS if not args.only or any(part in t.name for part in args.only)]
    if not wanted or args.list:
        names = "\n".join(t.name for t in TARGETS)
        if args.list:
            print(names)
            return 0
        parser.error(f"no row has {' or '.join(args.only)} in its name; there are:\n{names}")
    pin()
    flags = ["--engine", args.engine, "--seconds", str(args.seconds), *["--quick"] * args.quick]
    flags += ["--no-peers"] * (not args.peers) + ["--cpu-time"] * args.cpu_time
    where, rows = measured(wanted, flags, LIMIT)
    if where:
        print(f"{describe(where)}\ncommit {where['commit']}, {where['date']}\n")
    print(markdown(rows), end="")
    met = [row.met is True for row in rows]
    print(f"{met.count(True)} of {len(met)} targets met")
    return 0 if args.quick or all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
