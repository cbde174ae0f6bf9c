"""Products of bfloat16 numbers, summed in float32 with float32 weights kept, against our own float32.

    python -m benchmarks.bfloat16

The speed is of a training step; the quality is the loss on held-out text after the same training in both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.common import Options, Row, ratio, script
from benchmarks.race import ours, race
from benchmarks.work import VIDYA, sized, synthetic
from microgpt.engines.common.hardware import cpu
from microgpt.optim import learning_rates


def family(options: Options) -> list[Row]:
    """The rows."""
    speed = Row("1.25 M, 16 x 128 a step, bfloat16 products", "our float32", "µs/step", target=1.6)
    loss = Row(
        "1.25 M, held-out loss after training in bfloat16", "our float32", "nats", rule="<=", target=0.5, scale="%"
    )
    work = synthetic(sized(VIDYA, options), rows=2 if options.quick else 16, steps=1 if options.quick else 2)
    half, full = ours(work, options.engine, "bfloat16"), ours(work, options.engine)
    if half is None or full is None:
        return [replace(row, note="our engine does not compute in bfloat16") for row in (speed, loss)]
    note = half.name + ("" if cpu()["bfloat16"] else "; this CPU lacks the instructions: the fallback")
    fast, slow = (t.best * 1e6 / work.steps for t in race([half, full], options, rtol=0.02))
    return [
        replace(speed, ours=fast, theirs=slow, value=ratio(slow, fast), note=note),
        quality(replace(loss, note=note), options),
    ]


def quality(row: Row, options: Options) -> Row:
    """Train in both number types on the same text, compare on other text of the same language."""
    steps = 2 if options.quick else 300
    model = sized(VIDYA, options).model_copy(update={"init_std": 0.02, "residual_init": "scaled"})
    long = synthetic(model, rows=1 if options.quick else 4, steps=steps)
    long = replace(long, lrs=learning_rates(long.optim, 0, steps, steps))
    other = synthetic(model, rows=2, steps=1 if options.quick else 8, seed=2)
    found = []
    for dtype in ("bfloat16", "float32"):
        side = ours(long, options.engine, dtype)
        assert side is not None
        side.reset()
        side.train()
        found.append(float(np.mean(side.engine.loss(side.state, other.feed))))
    return replace(row, ours=found[0], theirs=found[1], value=100 * (found[0] / found[1] - 1))


if __name__ == "__main__":
    script(family, __doc__)
