"""The parts of the ladder's suite: the rungs, the options, and the measurements of an engine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.engines import Engine
from microgpt.engines.ladder import LADDER, engine
from microgpt.errors import MachineError
from microgpt.feed import Feed, pack
from microgpt.model import Tensors, init_weights, table
from microgpt.optim import learning_rates

DEFINITION = next(iter(LADDER))
SLOW = ("scalar", "functional")
EXACT = [rung for rung, facts in LADDER.items() if "float64" in facts.dtypes]
ROUNDED = [(rung, dtype) for rung, facts in LADDER.items() for dtype in facts.dtypes if dtype != "float64"]
STEPS = 12  # the warmup, the decay, and a turn for every engine in the relay

# How far an engine may be from the definition, relative.
FLOAT64 = 1e-9
# The losses of these steps: float32 keeps 24 bits (6e-8), and sums of some hundred terms in another order cost a factor
# of ten; bfloat16 keeps 8 bits (4e-3) in every matrix product, and the steps carry that on.
LOSS = {"float32": 1e-5, "bfloat16": 0.1}
# The first gradient beside its largest number, for the same reasons, without an optimizer in between; in bfloat16 a
# ReLU near its bend may fall to the other side.
GRADIENT = {"float32": 1e-5, "bfloat16": 0.2}


class Case(NamedTuple):
    """Options away from the defaults, and the shape of the batches."""

    model: Mapping[str, Any] = MappingProxyType({})
    optim: Mapping[str, Any] = MappingProxyType({})
    feed: Mapping[str, Any] = MappingProxyType({})
    masked: bool = False


EVERYTHING = Case(
    {
        "family": "nanochat",
        "n_layer": 2,
        "activation": "gelu",
        "tie_embeddings": True,
        "softcap": 3.0,
        "residual_init": "scaled",
        "dropout": 0.2,
    },
    {
        "beta1": 0.8,
        "beta2": 0.95,
        "eps": 1e-6,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup_steps": 3,
        "min_learning_rate": 0.002,
        "clip_norm": 0.5,
    },
    {"rows_per_step": 2, "micro_batch_size": 1},
    masked=True,
)
CASES = {
    "classic": Case({"n_layer": 2}),
    "modern": Case({"family": "modern", "n_layer": 2}),
    "nanochat": Case({"family": "nanochat", "n_layer": 2}),
    "rope interleaved": Case({"position": "rope", "rope_pairs": "interleaved"}),
    "rope half": Case({"position": "rope", "rope_pairs": "half", "rope_base": 100.0}),
    "relu2": Case({"activation": "relu2"}),
    "gelu": Case({"activation": "gelu"}),
    "raw embedding": Case({"norm_embedding": False}),
    "final norm": Case({"final_norm": True}),
    "tied": Case({"tie_embeddings": True}),
    "QK norm": Case({"qk_norm": True}),
    "softcap": Case({"softcap": 2.0}),
    "residual zero": Case({"residual_init": "zero"}),
    "residual scaled": Case({"residual_init": "scaled"}),
    "dropout": Case({"dropout": 0.3}),
    "dropout in a batch": Case({"dropout": 0.3}, {}, {"rows_per_step": 2}),
    "betas and eps": Case({}, {"beta1": 0.9, "beta2": 0.95, "eps": 1e-4}),
    "weight decay": Case({}, {"weight_decay": 0.1}),
    "constant": Case({}, {"schedule": "constant"}),
    "linear with floor": Case({}, {"min_learning_rate": 0.005}),
    "cosine with warmup": Case({}, {"schedule": "cosine", "warmup_steps": 5, "min_learning_rate": 0.001}),
    "clip": Case({}, {"clip_norm": 0.5}),
    "batch": Case({}, {}, {"rows_per_step": 2}),
    "accumulation": Case({}, {}, {"rows_per_step": 3, "micro_batch_size": 2}),
    "masked": Case({}, {}, {"rows_per_step": 2}, masked=True),
    "everything": EVERYTHING,
}


def small(**options: Any) -> Model:
    """Two heads of four channels: the least in which every option shows."""
    shape = {"vocab_size": 7, "block_size": 6, "n_layer": 1, "n_head": 2, "n_embd": 8, "init_std": 0.3}
    return Model.model_validate({**shape, **options})


def build(rung: str, model: Model, optim: Optim | None = None, dtype: str = "float64") -> Engine:
    """An engine, on one thread; pytorch on MICROGPT_TEST_DEVICE. Skips the test where the rung's library is missing."""
    optim = optim or Optim()
    try:
        cls = engine(rung)
    except MachineError as error:
        pytest.skip(str(error))
    device = os.environ.get("MICROGPT_TEST_DEVICE", "cpu") if rung == "pytorch" else "cpu"
    return cls(model, optim, dtype=dtype, device=device, threads=1)


def weights(model: Model, seed: int = 1) -> Tensors:
    return init_weights(model, Random(seed))


def moments(model: Model, seed: int = 2) -> Tensors:
    """Weights with moments, as in the middle of a run."""
    rng = np.random.default_rng(seed)
    shapes = {w.name: w.shape for w in table(model)}
    m = {f"m.{name}": rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    v = {f"v.{name}": rng.uniform(0.01, 0.1, shape) for name, shape in shapes.items()}
    return {**weights(model, seed), **m, **v}


def documents(model: Model, count: int, seed: int = 3) -> list[list[int]]:
    """Rows of every length from two tokens to a full block, the first of which is full.

    A query that has one key to choose from has no gradient but rounding, which Adam's first step would blow up to
    its full size: no two ways to compute could agree after it.
    """
    rng = Random(seed)
    lengths = [model.block_size + 1, *(rng.randint(2, model.block_size + 1) for _ in range(count - 1))]
    return [[rng.randrange(model.vocab) for _ in range(n)] for n in lengths]


def batches(model: Model, case: Case, steps: int = STEPS, seed: int = 3) -> Feed:
    rows = documents(model, steps * case.feed.get("rows_per_step", 1), seed)
    rng = Random(seed)
    scored = [[rng.random() < 0.6 for _ in row] for row in rows] if case.masked else None
    return pack(rows, scored, seed=11, **case.feed)


class Result(NamedTuple):
    losses: np.ndarray  # of the steps of a training run
    after: Tensors  # weights and moments at its end
    gradient: Tensors  # of the first step
    evaluated: np.ndarray  # losses before the run, without dropout
    norms: np.ndarray  # of the gradients of the run's steps, before clipping


@cache
def result(rung: str, case: str, dtype: str = "float64") -> Result:
    """The results of an engine on a case; the definition's are computed once and kept."""
    chosen = CASES[case]
    model, optim = small(**chosen.model), Optim(**chosen.optim)
    feed, tensors = batches(model, chosen), weights(model)
    it = build(rung, model, optim, dtype)
    evaluated = it.loss(it.load(tensors), feed)
    norms = np.zeros(STEPS)
    state, losses = it.train(it.load(tensors), feed, learning_rates(optim, 0, STEPS, STEPS), norms)
    first = batches(model, chosen, steps=1)
    return Result(losses, it.dump(state), gradient(rung, model, tensors, first, dtype)[1], evaluated, norms)


def gradient(rung: str, model: Model, tensors: Tensors, feed: Feed, dtype: str = "float64") -> tuple[float, Tensors]:
    """Loss and gradient of the feed's first step: with beta1 = 0 the first moment is the gradient itself."""
    it = build(rung, model, Optim(beta1=0.0), dtype)
    norm = np.zeros(1)
    state, losses = it.train(it.load(tensors), feed, np.zeros(1), norm)
    found = {name[2:]: a for name, a in it.dump(state).items() if name.startswith("m.")}
    whole = math.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in found.values()))
    np.testing.assert_allclose(norm, whole, rtol=FLOAT64 if dtype == "float64" else GRADIENT[dtype])
    return float(losses[0]), found


def apart(found: Tensors, expected: Tensors, least: float = 1e-3) -> float:
    """The largest difference in a matrix beside that matrix's largest number, over all matrices.

    A matrix far smaller than all others, as the gradient of queries that have one key to choose from (zero, but for
    rounding), is measured by `least` of the largest number of all.
    """
    assert found.keys() == expected.keys()
    floor = least * max(np.abs(b).max() for b in expected.values())
    return max(float(np.abs(found[name] - b).max() / max(np.abs(b).max(), floor)) for name, b in expected.items())


def same(found: Tensors, expected: Tensors) -> bool:
    """Bit for bit, NaN included."""
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], b, equal_nan=True) for name, b in expected.items()
    )


def golden() -> np.ndarray:
    """The losses of the names run, as the definition gives them."""
    path = Path(__file__).parents[1] / "golden" / "names_losses.txt"
    return np.array([float(line) for line in path.read_text(encoding="utf-8").split()])
