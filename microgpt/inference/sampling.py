"""Logits → distribution → token: temperature, top-k, top-p, min-p and repetition penalty; one token, or a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from microgpt.errors import NOT_FINITE, NumericError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. Temperature 0 is greedy; the filters are off by default."""

    temperature: float = 0.5
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn by a temperature alone."""
        filtered = self.top_k > 0 or self.top_p < 1 or self.min_p > 0
        return self.temperature > 0 and self.repetition_penalty == 1 and not filtered

    @property
    def greedy(self) -> bool:
        """Whether the first maximum of the logits themselves is taken."""
        return self.temperature == 0 and self.repetition_penalty == 1


def probabilities(logits: np.ndarray, sampling: Sampling, seen: Sequence[int] = ()) -> np.ndarray:
    """The distribution (V,) that a token is drawn from, float64; at temperature 0 all of it is on the first maximum.

    Repetition penalty (Keskar et al. 2019, arXiv:1909.05858), temperature, then top-k, top-p (Holtzman et al.
    2020, arXiv:1904.09751) and min-p (Nguyen et al. 2024, arXiv:2407.01082), in this order. Raises NumericError for
    logits that are not finite, except -inf, which forbids a token.
    """
    z = logits.astype(np.float64)
    if not math.isfinite(z.max()):
        raise NumericError(NOT_FINITE)
    if sampling.repetition_penalty != 1 and len(seen):
        at = np.unique(np.asarray(seen))
        z[at] = np.where(z[at] > 0, z[at] / sampling.repetition_penalty, z[at] * sampling.repetition_penalty)
    if sampling.temperature == 0:
        return _greedy(z)
    with np.errstate(over="ignore"):
        scaled = z / sampling.temperature
    if not math.isfinite(scaled.max()):  # a temperature so close to 0 that it makes no difference
        return _greedy(z)
    with np.errstate(over="ignore"):  # of the differences, too
        p = np.exp(scaled - scaled.max())
    p /= p.sum()
    if 0 < sampling.top_k < len(p) or sampling.top_p < 1:
        order = np.argsort(-p, kind="stable")
        kept = order[: sampling.top_k or None]
        if sampling.top_p < 1:
            mass = np.cumsum(p[kept] / p[kept].sum())
            kept = kept[: int(np.searchsorted(mass, sampling.top_p)) + 1]
        p = _only(p, kept)
    if sampling.min_p > 0:
        p = _only(p, np.flatnonzero(p >= sampling.min_p * p.max()))
    return p


def _greedy(z: np.ndarray) -> np.ndarray:
    p = np.zeros(len(z))
    p[z.argmax()] = 1.0
    return p


def _only(p: np.ndarray, kept: np.ndarray) -> np.ndarray:
    out = np.zeros(len(p))
    out[kept] = p[kept]
    return out / out.sum()


def draw(p: np.ndarray, rng: Random) -> int:
    """A token drawn from a distribution, the same that `rng.choices` draws."""
    mass = np.cumsum(p)
    return min(int(np.searchsorted(mass, rng.random() * mass[-1], side="right")), len(p) - 1)


def draw_batch(
    logits: Sequence[np.ndarray], samplings: Sequence[Sampling], rngs: Sequence[Random], seen: Sequence[Sequence[int]]
) -> list[int]:
    """A token per row of n logits (V,), each the one that `draw` gives for that row's sampling, generator and tokens.

    Rows without filters and penalty are drawn together, and so are greedy ones, since NumPy spends more on a call than
    on a row.
    """
    tokens = [-1] * len(logits)
    greedy = [i for i, sampling in enumerate(samplings) if sampling.greedy]
    if len(greedy) > 1:
        z = np.array([logits[i] for i in greedy])
        if np.isfinite(z.max(axis=1)).all():
            for i, token in zip(greedy, z.argmax(axis=1).tolist(), strict=True):
                rngs[i].random()  # whatever it is
                tokens[i] = token
    plain = [i for i, sampling in enumerate(samplings) if sampling.plain]
    if len(plain) > 1:
        z = np.array([logits[i] for i in plain], dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # such rows are drawn one by one, below
            z /= np.array([[samplings[i].temperature] for i in plain])
            z -= z.max(axis=1, keepdims=True)
            np.exp(z, out=z)
            z /= z.sum(axis=1, keepdims=True)
            np.cumsum(z, axis=1, out=z)
        if np.isfinite(z[:, -1]).all():
            reach = np.array([rngs[i].random() for i in plain]) * z[:, -1]
            drawn = np.count_nonzero(z <= reach[:, None], axis=1)
            for i, token in zip(plain, np.minimum(drawn, z.shape[1] - 1).tolist(), strict=True):
                tokens[i] = token
    for i, token in enumerate(tokens):
        if token < 0:
            tokens[i] = draw(probabilities(logits[i], samplings[i], seen[i]), rngs[i])
    return tokens
