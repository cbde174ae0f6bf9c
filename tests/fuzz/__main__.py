"""The fuzz of the command line, long form: `make fuzz`. Prints each failing case as a command that reproduces it."""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import cases
from tests.fuzz.folder import make
from tests.fuzz.verdict import attempt, known


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="their order, and the random damages and pairs")
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to resume or to repeat one")
    parser.add_argument("--stride", type=int, default=1, help="take each n-th, to share the work among processes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after this time")
    parser.add_argument("--match", default="", help="only the cases whose line contains this")
    parser.add_argument("--show", action="store_true", help="print what each case printed")
    args = parser.parse_args()
    begin = time.monotonic()
    statuses: Counter[str] = Counter()
    failures: list[int] = []
    slowest, largest, tried, expected, number = 0.0, 0, 0, 0, args.first
    with tempfile.TemporaryDirectory(prefix="microgpt-fuzz-") as temporary:
        start = make(Path(temporary))
        numbered = itertools.islice(
            enumerate(cases(start, args.seed)), args.first, args.first + args.cases, args.stride
        )
        for number, case in numbered:
            if time.monotonic() - begin > args.seconds:
                break
            if args.match not in str(case):
                continue
            found, ended = attempt(case, start, Path(temporary) / "attempt")
            tried += 1
            verb = case.words[0] if case.damage is None else "damage"
            statuses[f"{verb:10} {'stopped' if ended.status == 143 else ended.status}"] += 1
            slowest, largest = max(slowest, ended.seconds), max(largest, ended.memory)
            if args.show:
                print(
                    f"{number}: {case}\n{ended.status} in {ended.seconds:.2f} s\n{ended.out[-2000:]}{ended.err[-4000:]}"
                )
            if found and known(case, found):
                expected += 1
            elif found:
                failures.append(number)
                repeat = f"python -m tests.fuzz --seed {args.seed} --first {number} --cases 1 --show"
                line = ascii((ended.err.strip().splitlines() or [""])[-1][-200:])
                print(f"FAILED {', '.join(found)}: {case}\n  {line}\n  {repeat}", flush=True)
            if tried % 1000 == 0:
                print(f"{tried} cases, up to number {number}: {len(failures)} failed", file=sys.stderr, flush=True)
    print(f"\n{'command':10} {'status':>8} {'cases':>7}")
    for what, count in sorted(statuses.items()):
        verb, status = what.split()
        print(f"{verb:10} {status:>8} {count:7,}")
    where = f"{platform.machine()}, Python {platform.python_version()}"
    print(
        f"{tried:,} cases (seed {args.seed}, {args.first} to {number}) in {time.monotonic() - begin:.0f} s on {where}:"
    )
    print(f"{len(failures)} failed, {expected} known; slowest {slowest:.1f} s, most memory {largest / 1e6:.0f} MB")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
