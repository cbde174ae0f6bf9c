"""Every family, each in a process of its own, and one table: `make bench`.

python -m benchmarks                   the table of targets with today's figures
python -m benchmarks --record          the same, added to docs/records and the best to RECORDS.md
python -m benchmarks names medium      some families only
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.common import ROOT, Row, arguments, describe, markdown, say

FAMILIES = (
    "names",
    "alice",
    "medium",
    "threads",
    "bfloat16",
    "sampling",
    "decoding",
    "long_context",
    "startup",
    "memory",
    "estimates",
    "products",
)


def run(
    family: str, flags: list[str], environment: dict[str, str] | None = None, timeout: float | None = None
) -> tuple[dict[str, Any], list[Row]] | None:
    """The machine and the rows of a family; None where it fails or takes longer than `timeout`, which is said."""
    say(f"{family}:")
    start = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{family}", "--json", *flags]
    env = os.environ | (environment or {})
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        say(f"  {family} was stopped after {timeout:.0f} s; its rows are missing")
        return None
    if done.returncode:
        say(f"  {family} failed with status {done.returncode}; its rows are missing")
        return None
    found = json.loads(done.stdout)
    say(f"  {time.perf_counter() - start:.0f} s")
    return found["machine"], [Row(**{k: v for k, v in row.items() if k != "met"}) for row in found["rows"]]


def record(where: dict[str, Any], rows: list[Row], path: Path | None = None) -> None:
    """Add a run to the history of this kind of machine, which begins with its first run."""
    from microgpt import files

    path = path or records.HISTORY / f"{where['target']}.md"
    title = "" if path.exists() else f"# {where['cpu']} ({where['target']}), {where['vector_bits']}-bit vectors\n"
    files.append_text(
        path, f"{title}\n## {where['date']}, commit {where['commit']}\n\n{describe(where)}\n\n{markdown(rows)}"
    )


def main() -> int:
    """Measure, print, record."""
    parser = arguments(__doc__)
    parser.add_argument("families", nargs="*", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument(
        "--record", action="store_true", help="add the table to docs/records, and its best figures to RECORDS.md"
    )
    args = parser.parse_args()
    if unknown := set(args.families) - set(FAMILIES):
        parser.error(f"no family is called {', '.join(sorted(unknown))}; there are: {', '.join(FAMILIES)}")
    flags = ["--engine", args.engine, "--seconds", str(args.seconds)]
    flags += ["--quick"] * args.quick + ["--no-peers"] * (not args.peers)
    flags += ["--cpu-time"] * args.cpu_time + [f"--only={part}" for part in args.only or ()]
    parts = [run(name, flags) for name in args.families or FAMILIES]
    done = [part for part in parts if part]
    if not done:
        return 1
    where, rows = done[0][0], [row for _, some in done for row in some]
    if args.json:
        print(json.dumps({"machine": where, "rows": [vars(row) | {"met": row.met} for row in rows]}))
    else:
        judged = [row.met for row in rows if row.target is not None]
        print(f"{describe(where)}\ncommit {where['commit']}, {where['date']}\n\n{markdown(rows)}")
        print(f"{judged.count(True)} of {len(judged)} targets met")
    if args.record:
        record(where, rows)
        records.refresh()
    return 0 if len(done) == len(parts) else 1


if __name__ == "__main__":
    sys.exit(main())
