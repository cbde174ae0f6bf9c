"""Decoding with a cache of keys and values at 1.25 million parameters, context 128: one sequence, and a batch of 32.

    python -m benchmarks.decoding

Each sequence draws 128 tokens at temperature 1 from a first token on. Ours takes 32 at once and keeps as many going as
stay in the cache, 16 here; the others follow in their places. Peers are checked by the logits of a given text. Weights
in int8 are held against our own float32, the two in turn.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np

from benchmarks.apart import Side, apart
from benchmarks.common import Options, Row, script
from benchmarks.race import Drawing, Ours, installed, ours
from benchmarks.sampling import check, speeds
from benchmarks.work import VIDYA, Work, sized, synthetic
from microgpt.config import Model
from microgpt.inference.generate import generate_batch, generate_many
from microgpt.inference.sampling import Sampling
from microgpt.model import Tensors

FIRST, SAMPLING = 0, Sampling(temperature=1.0)
TARGETS = (("float32", 1, 13_000.0), ("float32", 32, 60_000.0), ("bfloat16", 1, 20_000.0))  # tokens per second
INT8 = Row(
    "1.25 M, decoding, batch of 1, int8",
    "our float32",
    "tokens/s",
    target=1.8,
    note="our engine does not compute in int8",
)


def ours_draws(side: Ours, n: int, count: int) -> int:
    """A batch of n sequences, whole ones where the engine has that fast path; else a token per call."""
    if n == 1:
        found = generate_many(side.engine, side.state, [FIRST], 1, count, SAMPLING, Random(0), -1)
        return sum(len(list(each)) for each in found)
    return len(generate_batch(side.engine, side.state, [FIRST], n, count, SAMPLING, 0, -1)[0])


def peers(side: Ours, batch: int, count: int) -> list[Side]:
    """JAX and PyTorch on the same weights, in processes of their own, their logits compared with ours first."""
    found: list[Side] = []
    text = side.work.feed.tokens[:20]
    want = side.engine.logits(side.state, text)[0].astype(np.float64)
    for library in ("torch", "jax"):
        if installed(library):
            found += apart(drawing, library, side.work.model, side.work.tensors, batch, count, text, want)
    return found


def drawing(
    library: str, model: Model, tensors: Tensors, batch: int, count: int, text: np.ndarray, want: np.ndarray
) -> list[Side]:
    """A peer that decodes; raises AssertionError where its logits of the text are not those that we want."""
    name = {"torch": "PyTorch eager", "jax": "JAX, scan over tokens"}[library]
    decoder = importlib.import_module(f"benchmarks.peers.{library}_gpt").Decoder(model, tensors, batch)
    check(name, decoder.follow(text), want)
    return [Drawing(name, lambda: decoder.generate(FIRST, count, 1.0).size)]


def int8(work: Work, count: int, options: Options) -> Row:
    """One sequence with the weights in int8 against the same in float32."""
    sides = [side for dtype in ("int8", "float32") if (side := ours(work, options.engine, dtype))]
    if len(sides) < 2:
        return INT8
    for side in sides:
        side.reset()
    drawings = [Drawing(side.name, partial(ours_draws, side, 1, count)) for side in sides]
    fast, plain = (speed for _, speed in speeds(drawings, options))
    return replace(INT8, ours=fast, theirs=plain, value=fast / plain, note=sides[0].name)


def family(options: Options) -> list[Row]:
    """The rows."""
    work = synthetic(sized(VIDYA, options), rows=1, steps=1)
    count, rows = 8 if options.quick else 128, []
    for dtype, n, target in TARGETS:
        name = f"1.25 M, decoding, batch of {n}, {dtype}"
        if not options.wants(name):
            continue
        row = Row(name, "-", "tokens/s", target=target, scale="tokens/s")
        side = ours(work, options.engine, dtype)
        if side is None:
            rows.append(replace(row, note=f"our engine does not compute in {dtype}"))
            continue
        side.reset()
        drawings: list[Side] = [Drawing(side.name, partial(ours_draws, side, n, count))]
        if options.peers and dtype == "float32":
            drawings += peers(side, n, count)
        found = speeds(drawings, options)
        best = max(found[1:], key=lambda pair: pair[1], default=("-", None))
        rows.append(replace(row, against=best[0], ours=found[0][1], theirs=best[1], value=found[0][1], note=side.name))
    return [*rows, int8(work, count, options)] if options.wants(INT8.work) else rows


if __name__ == "__main__":
    script(family, __doc__)
