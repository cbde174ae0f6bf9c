"""The table of weights: which matrices a model has, how large they are and how they start.

Shapes are (out, in), so that y = W x; D n_embd, V vocab_size, B block_size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import numpy as np

from microgpt.config import Model

Tensors = dict[str, np.ndarray]


class Weight(NamedTuple):
    """One matrix of the model before it has numbers."""

    name: str
    shape: tuple[int, int]
    std: float


def table(model: Model) -> list[Weight]:
    """Every matrix in the order in which first values are drawn (DESIGN: wte, wpe, lm_head, then by layer)."""
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


def first_values(model: Model, rng: Random) -> Tensors:
    """Draw every matrix, row by row, from `rng`, exactly as `rng.gauss(0, std)` would, as float64."""
    return {w.name: gauss(rng, w.shape[0] * w.shape[1], w.std).reshape(w.shape) for w in table(model)}


def gauss(rng: Random, n: int, std: float) -> np.ndarray:
    """The next `n` values of `rng.gauss(0, std)`, the same doubles, about ten times faster.

    NumPy's legacy generator is the same Mersenne Twister and makes the same uniform doubles, so the twister's
    state moves there and back; logarithm and cosine stay with `math`, since NumPy's may differ in the last bit.
    """
    spare, twister = rng.getstate()[2], twister_of(rng)
    drawn = [] if spare is None or n == 0 else [spare]
    pairs = (n - len(drawn) + 1) // 2
    uniform = twister.random_sample(2 * pairs)
    angle = (uniform[0::2] * (2 * math.pi)).tolist()
    radius = np.sqrt(-2.0 * np.array([math.log(1.0 - u) for u in uniform[1::2].tolist()]))
    z = np.empty(len(drawn) + 2 * pairs)
    z[: len(drawn)] = drawn
    z[len(drawn) :: 2] = np.array([math.cos(a) for a in angle]) * radius
    z[len(drawn) + 1 :: 2] = np.array([math.sin(a) for a in angle]) * radius
    if n:
        spare = float(z[n]) if len(z) > n else None
    hand_back(rng, twister, spare)
    return 0.0 + z[:n] * std


def twister_of(rng: Random) -> np.random.RandomState:
    """NumPy's generator at the place where `rng` stands: its `random_sample` gives what `rng.random` would."""
    _, state, _ = rng.getstate()
    twister = np.random.RandomState()
    twister.set_state(("MT19937", np.array(state[:-1], dtype=np.uint32), state[-1], 0, 0.0))
    return twister


def hand_back(rng: Random, twister: np.random.RandomState, spare: float | None) -> None:
    """Put `rng` where the twister stands; `spare` is the value that its next `gauss` has in hand."""
    after: dict[str, Any] = twister.get_state(legacy=False)["state"]
    rng.setstate((rng.getstate()[0], (*after["key"].tolist(), int(after["pos"])), spare))


def n_params(model: Model) -> int:
    """Numbers to learn."""
    return sum(rows * columns for _, (rows, columns), _ in table(model))


def flops_per_token(model: Model) -> int:
    """Floating-point operations to train on one token: 6 a weight (Kaplan et al. 2020, arXiv:2001.08361)."""
    return 6 * n_params(model)
