"""The names model (4,192 parameters): one document per step in float32 and float64, and 64 documents per step.

python -m benchmarks.names
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.apart import Side
from benchmarks.common import Options, Row, ratio, script
from benchmarks.peers import yardstick
from benchmarks.race import fastest, ours, peers, race
from benchmarks.work import Work, names, names_file


def one_document(options: Options) -> list[Row]:
    """The whole run of gpt.py against the C yardstick, in both float types, and against PyTorch and JAX."""
    work = names(1, 50 if options.quick else 1000, options)
    rows = []
    for dtype, target in (("float32", 0.6), ("float64", 2.2)):
        row = Row(f"names, 1 document per step, {dtype}", "C yardstick, float32", "µs/step", rule="<=", target=target)
        if not options.wants(row.work):
            continue
        us = ours(work, options.engine, dtype)
        if us is None:
            rows.append(replace(row, note="no engine"))
            continue
        us.reset()
        tail = float(us.train()[-50:].mean())
        c = None
        if options.peers and yardstick.program("names"):
            c = yardstick.Names(names_file(options), work.steps, tail)
        others = peers(work, options) if dtype == "float32" else []
        timings = race([us, *([c] if c else []), *others], options)
        mine = timings[0].best * 1e6 / work.steps
        theirs = c.best if c else None
        rows.append(replace(row, ours=mine, theirs=theirs, value=ratio(mine, theirs), note=us.name))
        if best := fastest([t for t in timings[1:] if t.name != "C yardstick"]):
            theirs = best.best * 1e6 / work.steps
            rows.append(
                Row(f"names, 1 document per step, {dtype}", best.name, "µs/step", mine, theirs, ratio(theirs, mine))
            )
    return rows


def against_peers(name: str, work: Work, target: float, options: Options, dtype: str = "float32") -> Row:
    """Our engine against the fastest form of PyTorch and JAX: microseconds per step."""
    us = ours(work, options.engine, dtype)
    if us is None:
        return Row(name, "best of PyTorch, JAX", "µs/step", target=target, note="no engine")
    sides: list[Side] = [us, *peers(work, options)]
    timings = race(sides, options)
    best = fastest(timings[1:])
    mine, theirs = timings[0].best, best.best if best else None
    scale = 1e6 / work.steps
    return Row(
        name,
        best.name if best else "best of PyTorch, JAX",
        "µs/step",
        mine * scale,
        theirs * scale if theirs else None,
        ratio(theirs, mine),
        target=target,
        note=us.name,
    )


def family(options: Options) -> list[Row]:
    """The rows."""
    rows, name = one_document(options), "names, 64 documents per step, float32"
    if options.wants(name):
        rows.append(against_peers(name, names(64, 4 if options.quick else 100, options), 8.0, options))
    return rows


if __name__ == "__main__":
    script(family, __doc__)
