"""The table of weights: the matrices of a model, their shapes and their initial values.

Shapes are (out, in), so that y = W x; D n_embd, V vocab_size, B block_size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import numpy as np

from microgpt.config import Model
from microgpt.rng import gauss

Tensors = dict[str, np.ndarray]


class Weight(NamedTuple):
    """One matrix of the model: its name, shape and initial standard deviation."""

    name: str
    shape: tuple[int, int]
    std: float


def table(model: Model) -> list[Weight]:
    """Every matrix in the order in which initial weights are drawn: wte, wpe, lm_head, then by layer."""
    return list(_rows(model))


def _rows(model: Model) -> Iterator[Weight]:
    D, V, std = model.n_embd, model.vocab, model.init_std
    out_std = {"same": std, "zero": 0.0, "scaled": std / math.sqrt(2 * model.n_layer)}[model.residual_init]
    yield Weight("wte", (V, D), std)
    if model.position == "learned":
        yield Weight("wpe", (model.block_size, D), std)
    if not model.tie_embeddings:
        yield Weight("lm_head", (V, D), std)
    for i in range(model.n_layer):
        yield Weight(f"layer{i}.attn_wq", (D, D), std)
        yield Weight(f"layer{i}.attn_wk", (D, D), std)
        yield Weight(f"layer{i}.attn_wv", (D, D), std)
        yield Weight(f"layer{i}.attn_wo", (D, D), out_std)
        yield Weight(f"layer{i}.mlp_fc1", (4 * D, D), std)
        yield Weight(f"layer{i}.mlp_fc2", (D, 4 * D), out_std)


def init_weights(model: Model, rng: Random) -> Tensors:
    """Draw every matrix, row by row, from `rng`, exactly as `rng.gauss(0, std)` would; float64."""
    return {w.name: gauss(rng, w.shape[0] * w.shape[1], w.std).reshape(w.shape) for w in table(model)}


def n_params(model: Model) -> int:
    """The number of parameters."""
    return sum(rows * columns for _, (rows, columns), _ in table(model))


def flops_per_token(model: Model) -> int:
    """Floating-point operations to train on one token: 6 per weight (Kaplan et al. 2020, arXiv:2001.08361)."""
    return 6 * n_params(model)
