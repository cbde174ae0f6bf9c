"""Names drawn from the trained names model: one after another, and many in a batch.

    python -m benchmarks.sampling

One after another means the reference's generator and the reference's samples; the C program and JAX have generators
of their own. A token is a pass of the model; the end of a name is one. Peers are checked by their logits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.apart import Side, apart
from benchmarks.common import Options, Row, say, script
from benchmarks.peers import yardstick
from benchmarks.race import Drawing, Ours, installed, race
from benchmarks.work import Work, names
from microgpt import files
from microgpt.config import Model
from microgpt.feed import pack
from microgpt.inference.generate import generate_batch, generate_many
from microgpt.inference.sampling import Sampling
from microgpt.model import Tensors, table

BOS, EMMA = 26, [26, 4, 12, 12, 0, 26]
SAMPLING = Sampling(temperature=0.5)


def trained(options: Options) -> tuple[Work, Ours, Tensors]:
    """The model of the names run, on our engine, and its weights."""
    work = names(1, 50 if options.quick else 1000, options)
    side = Ours(work, options.engine)
    side.reset()
    side.train()
    return work, side, {w.name: side.engine.dump(side.state)[w.name] for w in table(work.model)}


def one_after_another(side: Ours, count: int) -> int:
    """`count` names from one generator, whole names in one call where the engine has that fast path."""
    block = side.work.model.block_size
    found = generate_many(side.engine, side.state, [BOS], count, block, SAMPLING, Random(42), BOS)
    return sum(min(len(list(name)) + 1, block) for name in found)


def in_batch(side: Ours, count: int) -> int:
    """`count` names, numbers of its own for each."""
    block = side.work.model.block_size
    _, ends = generate_batch(side.engine, side.state, [BOS], count, block, SAMPLING, 42, BOS)
    return int(np.minimum(np.diff(ends) + 1, block).sum())


def of_jax(model: Model, weights: Tensors, want: np.ndarray, batch: int, steps: int) -> list[Side]:
    """JAX: a batch whose sequences begin a new name as soon as one ends, all in one compiled loop."""
    from benchmarks.peers.jax_gpt import Decoder

    decoder = Decoder(model, weights, batch)
    check("JAX", decoder.follow(np.array(EMMA[:-1])), want)
    name = f"JAX, batch of {batch}"
    return [Drawing(name, lambda: decoder.generate(BOS, steps, SAMPLING.temperature, restart=True).size)]


def check(name: str, theirs: np.ndarray, ours: np.ndarray, atol: float = 1e-3) -> None:
    """Raise AssertionError where logits differ: another model is being timed."""
    off = float(np.abs(theirs - ours).max())
    assert off < atol, f"{name}: logits differ from ours by {off:.1e}, so it is not the same model"


def c_speed(weights: Tensors, loss: float, count: int) -> float | None:
    """Tokens per second of the C program, or None without gcc."""
    if yardstick.program("sample") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.f32"
        files.write_atomic(path, b"".join(w.astype("<f4").tobytes() for w in weights.values()))
        found = yardstick.figures("sample", str(path), str(count))
    check("C yardstick", np.array(found["emma"]), np.array(loss))
    say(f"  C yardstick: {found['tokens_per_s']:,.0f} tokens/s, {found['tokens_per_name']:.2f} tokens per name")
    return found["tokens_per_s"]


def speeds(sides: list[Any], options: Options) -> list[tuple[str, float]]:
    """Name and tokens per second of each side."""
    by_name = {side.name: side for side in sides}
    return [(t.name, by_name[t.name].drawn / t.best) for t in race(sides, options)]


def family(options: Options) -> list[Row]:
    """The rows."""
    work, side, weights = trained(options)
    want = side.engine.logits(side.state, np.array(EMMA[:-1], np.int32))[0].astype(np.float64)
    loss = float(side.engine.loss(side.state, pack([EMMA]))[0])
    fast_path = side.engine.generate is not None
    few, steps = (3, 20) if options.quick else (20_000 if fast_path else 200, 2000)

    def against_jax(name: str, run: Callable[[], int], batch: int) -> list[tuple[str, float]]:
        sides: list[Side] = [Drawing(name, run)]
        if options.peers and installed("jax"):
            sides += apart(of_jax, work.model, weights, want, batch, steps)
        return speeds(sides, options)

    def row(work: str, target: float, found: list[tuple[str, float]]) -> Row:
        against, theirs = max(found[1:], key=lambda pair: pair[1], default=("-", None))
        speed, unit = found[0][1], "tokens/s"
        return Row(work, against, unit, speed, theirs, speed, target=target, scale=unit, note=side.name)

    rows, single, batched = [], "sampling names, one after another", "sampling names, batched"
    if options.wants(single):
        found = against_jax(side.name, lambda: one_after_another(side, few), 1)
        if options.peers and (speed := c_speed(weights, loss, 1000 if options.quick else 200_000)):
            found.append(("C yardstick", speed))
        rows.append(row(single, 3e6, found))
    if options.wants(batched):
        rows.append(row(batched, 8e6, against_jax(side.name, lambda: in_batch(side, few), 256)))
    return rows


if __name__ == "__main__":
    script(family, __doc__)
