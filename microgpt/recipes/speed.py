"""The training speed of shapes on this machine, from about a second of real steps of two of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from microgpt.config import Model, Optim, Run
from microgpt.engines.common.calibration import interpolate
from microgpt.engines.ladder import LADDER, Choice, choose
from microgpt.feed import pack
from microgpt.model import init_weights, n_params
from microgpt.recipes.table import Recipe

SECONDS = 0.5  # of steps per shape
SLOW = 8.0  # seconds per step, as estimated, of an engine that is not asked to take any
LETTERS = 96  # tokens of a vocabulary of characters, about


def dtype(row: Recipe, run: Run) -> str:
    """The float type to train in: what `run` asks for, or bfloat16 where the engine it asks for is faster in it here.

    A model is then as good after as many steps (weights, sums and the loss stay float32), and there are more of them.
    Raises UsageError or MachineError where the engine cannot be used.
    """
    if run.dtype != "auto":
        return run.dtype
    model = _model(row)
    usual = _choice(row, model, run)
    can = LADDER[usual.name].prefers_bfloat16 and usual.cls.remark(model, "bfloat16") is None
    return "bfloat16" if can else run.dtype


def measure(rows: Sequence[Recipe], run: Run) -> dict[Recipe, float]:
    """Training tokens per second of each recipe on the engine that `run` asks for.

    The smallest and the largest shape take steps; the time of the others is interpolated by their parameters.
    Raises UsageError or MachineError where the engine cannot be used.
    """
    models = {row: _model(row) for row in rows}
    by_size = sorted(rows, key=lambda row: n_params(models[row]))
    probes = {by_size[0]: 0, by_size[-1]: 0}  # one where there is no other
    points = [(float(n_params(models[row])), _seconds_per_token(row, models[row], run)) for row in probes]
    return {row: 1 / interpolate(points, n_params(models[row]), math.log, math.exp) for row in rows}


def _model(row: Recipe) -> Model:
    model = Model(family="modern", vocab_size=row.vocabulary or LETTERS, dropout=row.dropout)
    sizes = {"n_layer": row.n_layer, "n_embd": row.n_embd, "n_head": row.n_head, "block_size": row.block_size}
    return model.model_copy(update=sizes)


def _choice(row: Recipe, model: Model, run: Run) -> Choice:
    """The engine that `run` asks for."""
    asked: dict[str, Any] = {"name": run.engine, "dtype": run.dtype, "device": run.device}
    return choose(model, Optim(), tokens_per_step=row.rows * row.block_size, rows_per_step=row.rows, **asked)


def _seconds_per_token(row: Recipe, model: Model, run: Run) -> float:
    tokens = row.rows * row.block_size
    choice = _choice(row, model, run)
    if choice.seconds_per_step > SLOW:
        return choice.seconds_per_step / tokens
    engine = choice.build(model, Optim(clip_norm=1.0), threads=run.threads)
    state = engine.load(init_weights(model, Random(1)))
    drawn = np.random.default_rng(1).integers(0, model.vocab, (row.rows, row.block_size + 1))
    feed = pack(drawn.tolist(), rows_per_step=row.rows)
    state, _ = engine.train(state, feed, np.zeros(1))  # compiles kernels, touches memory
    spent = list[float]()
    while sum(spent) < SECONDS:
        began = time.perf_counter()
        state, _ = engine.train(state, feed, np.zeros(1))
        spent.append(time.perf_counter() - began)
    return sorted(spent)[len(spent) // 2] / tokens
