"""Our engine with two threads against one, on two cores.

python -m benchmarks.threads
"""

from __future__ import annotations

import os
from dataclasses import replace

from benchmarks.common import Options, Row, ratio, script
from benchmarks.work import TEN_MILLION, VIDYA, ours, race, sized, synthetic


def family(options: Options) -> list[Row]:
    """The rows."""
    many = synthetic(sized(VIDYA, options), rows=2 if options.quick else 16, steps=1 if options.quick else 2)
    big = synthetic(sized(TEN_MILLION, options), rows=1 if options.quick else 4, steps=1 if options.quick else 2)
    rows = []
    for name, work in (("1.25 M, 16 x 128 a step, 2 threads", many), ("10.7 M, 4 x 256 a step, 2 threads", big)):
        row = Row(name, "our one thread", "µs/step", target=1.85)
        two, one = (ours(work, options.engine, threads=n) for n in (2, 1))
        if two is None or one is None or (os.cpu_count() or 1) < 2:
            rows.append(replace(row, note="no engine, or one core only"))
            continue
        fast, slow = (t.best * 1e6 / work.steps for t in race([two, one], replace(options, cpu_time=False)))
        rows.append(replace(row, ours=fast, theirs=slow, value=ratio(slow, fast), note=two.name))
    return rows


if __name__ == "__main__":
    script(family, __doc__, cores=2)
