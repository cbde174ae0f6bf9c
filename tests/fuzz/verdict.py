"""Whether a case ended as promised: a documented status, one line of error, in time and memory, nothing lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.fuzz.cases import Case
from tests.fuzz.child import DEADLINE, MEMORY, Ended, run
from tests.fuzz.copies import Copy, Entry

STATUSES = {0, 2, 3, 4, 5, 6, 130, 141, 143}  # docs/security.md; microgpt/errors.py
PATIENCE = 1.0  # seconds until a command whose flags may ask for endless work gets SIGTERM

# Failures that are known and not mended yet: a part of the case, a part of the fault, and the reason.
KNOWN: tuple[tuple[str, str, str], ...] = ()


def lost(case: Case, ended: Ended, before: dict[str, Entry], after: dict[str, Entry]) -> str:
    """The first file that was changed or removed by a command that must not."""
    if {"--resume", "--extend"} & {word.partition("=")[0] for word in case.words} and ended.status not in (2, 3, 4, 5):
        return "" if any("checkpoints/step-" in name for name in after) else "all checkpoints"
    return next((name for name in before if not _bookkeeping(name) and before[name] != after.get(name)), "")


def _bookkeeping(name: str) -> bool:
    """Whether a file says who holds a run or is a cache: nothing that a user made."""
    return name.startswith("cache") or name.endswith(".owner.json")


def faults(case: Case, ended: Ended) -> list[str]:
    """What the streams, the status, the time and the memory show."""
    found = []
    if ended.killed:
        found.append(f"had not ended after {DEADLINE:.0f} s" + (" and SIGTERM" if ended.asked else ""))
    elif ended.status not in STATUSES:
        found.append(f"status {ended.status}")
    elif ended.status == 143 and not ended.asked:
        found.append("status 143 without a signal")
    for word in ("Traceback", "defect", "panicked", "Warning: ", "Exception ignored"):
        if word in ended.err:
            found.append(f"{word} on stderr")
    errors = [line for line in ended.err.splitlines() if line.startswith("microgpt: ")]
    if len(errors) > 1 or (not errors and ended.status in (2, 3, 4, 5, 6)):
        found.append(f"{len(errors)} lines of error")
    if ended.status in (2, 3, 4, 5, 6) and errors and not ended.err.rstrip("\n").endswith(errors[-1]):
        found.append("lines after the error")
    if control := re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", ended.err.replace("\r\n", "\n")
    ):
        found.append(f"control character {control[0]!a} on stderr")
    if ended.memory > MEMORY:
        found.append(f"{ended.memory / MEMORY:.1f} GiB of memory")
    if case.damage and ended.status == 5 and "out of memory" in ended.err:
        found.append("more than 1 GiB of memory for a damaged file")
    if ended.status == 0 and "--json" in case.words and ended.out.strip():
        try:
            json.loads(ended.out, parse_constant=_no_json)
        except ValueError as error:
            found.append(f"stdout is no JSON: {error}")
    return found


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def attempt(case: Case, start: Path, place: Path) -> tuple[list[str], Ended]:
    """Run a case in a copy of the folder, at `place`; returns its faults and how it ended."""
    if place not in COPIES or COPIES[place].start != start:
        place.mkdir(exist_ok=True)
        COPIES[place] = Copy(start, place / "case")
    copy = COPIES[place]
    for again in (False, True):
        case.prepare(copy.path)
        before = copy.state()
        slack = 3 if again else 1  # a second chance, if other programs kept the machine from this one
        patience = PATIENCE if case.long else DEADLINE * slack
        ended = run(case.words, copy.path, place / "log", patience, DEADLINE * slack)
        found, after = faults(case, ended), copy.state()
        copy.restore(after)
        if name := lost(case, ended, before, after):
            found.append(f"{name} was changed or removed")
        if not (ended.killed or (ended.asked and not case.long)) or ended.cpu_seconds > DEADLINE:
            break
    return found, ended


COPIES: dict[Path, Copy] = {}


def known(case: Case, found: list[str]) -> str:
    """The reason if every fault of the case is a known one, else ''."""
    reasons = [next((why for part, fault, why in KNOWN if part in str(case) and fault in one), "") for one in found]
    return "; ".join(dict.fromkeys(reasons)) if all(reasons) else ""
