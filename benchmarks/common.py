"""What every benchmark shares: options, the row of a table, the table, and the words for this machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("torch", "jax")


@dataclass(frozen=True)
class Options:
    """What a user may ask of every script."""

    engine: str = "auto"
    quick: bool = False  # the smallest work that runs every line; its figures mean nothing
    peers: bool = True
    seconds: float = 5.0  # spent on measuring each side of a race
    cpu_time: bool = False  # count the time that this process has the core, not the clock's
    only: tuple[str, ...] = ()  # parts of the names of the works that are wanted; empty: all

    def wants(self, work: str) -> bool:
        """Whether a row of this work is wanted; a family need not measure the others."""
        return not self.only or any(part in work for part in self.only)


@dataclass(frozen=True)
class Row:
    """One line of the table: `value` is what is held against the target."""

    work: str
    against: str
    unit: str  # of ours and theirs
    ours: float | None = None
    theirs: float | None = None
    value: float | None = None
    rule: str = ">="
    target: float | None = None
    scale: str = "×"  # of value and target: × for a ratio, % for a share, or a unit
    note: str = ""
    slack: float = 0.0  # of the target, by which a noisy figure may miss it

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is no target or no figure."""
        if self.value is None or self.target is None:
            return None
        if self.rule == ">=":
            return self.value >= self.target * (1 - self.slack)
        return self.value <= self.target * (1 + self.slack)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, or None where either is missing."""
    return a / b if a is not None and b else None


def pin(cores: int = 1) -> None:
    """Keep this process on the last `cores` cores it may use (the first often serves the system)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def machine() -> dict[str, Any]:
    """Where figures come from: CPU, vectors, peak, versions, commit, date and how busy the machine was."""
    from benchmarks import peak
    from microgpt.engines.common.hardware import cpu

    found = cpu()
    return {
        "cpu": _cpu_name(),
        "target": found["name"],
        "cores": found["cores"],
        "vector_bits": found["vector_bits"],
        "peak_gflops": round(peak.measured() / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("numpy", "numba", "torch", "jax")},
        "commit": _commit(),
        "date": date.today().isoformat(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def number(value: float | None) -> str:
    """Three figures, thousands apart."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


HEADER = ("work", "against", "unit", "ours", "theirs", "value", "target", "met", "note")


def cells(row: Row) -> tuple[str, ...]:
    """A row as the words of the table."""
    met = {True: "yes", False: "NO", None: "-"}[row.met]
    scale = f" {row.scale}"
    sign = {">=": "≥", "<=": "≤"}[row.rule]
    return (
        row.work,
        row.against,
        row.unit,
        number(row.ours),
        number(row.theirs),
        number(row.value) + scale if row.value is not None else "-",
        f"{sign} {number(row.target)}{scale}" if row.target is not None else "-",
        met,
        row.note,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table, readable as text and as Markdown."""
    lines = [HEADER, *(cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text) + "\n"


def describe(where: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items() if version)
    return (
        f"{where['cpu']} ({where['target']}), {where['cores']} cores, {where['vector_bits']}-bit vectors, "
        f"{where['peak_gflops']:.0f} GFLOP/s float32 a core; {where['system']}; {versions}; "
        f"load {'/'.join(map(str, where['load'])) or 'unknown'}"
    )


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The flags that every script has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="auto", help="our side's engine (default: auto)")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest work that runs everything: a test, no figure"
    )
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="our own side only")
    parser.add_argument("--seconds", type=float, default=5.0, help="measuring time of each side (default: 5)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="on a busy machine: CPU time of the process, not the clock"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", action="append", metavar="PART", help="rows whose name has this; may be repeated")
    return parser


def chosen(args: argparse.Namespace) -> Options:
    """The options of parsed flags."""
    seconds = 0.05 if args.quick else args.seconds
    return Options(args.engine, args.quick, args.peers, seconds, args.cpu_time, tuple(args.only or ()))


def script(family: Callable[[Options], list[Row]], about: str | None, cores: int = 1) -> None:
    """The main of a family: parse, pin, measure, print."""
    args = arguments(about).parse_args()
    pin(cores)
    options = chosen(args)
    where, rows = machine(), [row for row in family(options) if options.wants(row.work)]
    alone(options.engine)
    if args.json:
        print(json.dumps({"machine": where, "rows": [{**asdict(row), "met": row.met} for row in rows]}))
    else:
        print(f"{describe(where)}\ncommit {where['commit']}, {where['date']}, {cores} core{'s' * (cores > 1)}\n")
        print(markdown(rows), end="")


def alone(engine: str) -> None:
    """Raise AssertionError where our side, which ran in this process, was not alone there: no peer may be imported."""
    from microgpt.engines.ladder import ALIASES, LADDER

    own = None if engine == "auto" else LADDER[ALIASES.get(engine, engine)].requires
    beside = [name for name in PEERS if name in sys.modules and name != own]
    assert not beside, f"{' and '.join(beside)} ran in our side's process, which may change it: see benchmarks/apart.py"


def child(module: str, *args: str, env: dict[str, str] | None = None, timeout: float = 600) -> str:
    """What a fresh Python process prints that runs one of our modules; it inherits the pinning."""
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=True,
    )
    return done.stdout
