"""The alice model (34,240 parameters, context 128), one document per step, on synthetic text of its shape.

python -m benchmarks.alice
"""

from __future__ import annotations

from benchmarks.common import Options, Row, script
from benchmarks.names import against_peers
from benchmarks.work import ALICE, sized, synthetic


def family(options: Options) -> list[Row]:
    """The row."""
    work = synthetic(sized(ALICE, options), rows=1, steps=2 if options.quick else 100)
    return [against_peers("alice, 1 document of 128 per step, float32", work, 4.0, options)]


if __name__ == "__main__":
    script(family, __doc__)
