"""Several models as one: a token's probability is the mean of theirs, whatever engines compute them.

The state is the list of theirs. Their contexts may differ; the caller keeps within the shortest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from microgpt.engines import Engine
from microgpt.feed import Feed
from microgpt.model import Tensors


class Ensemble(Engine):
    """Engines of models with one vocabulary. They are trained each on their own, not here."""

    def __init__(self, members: Sequence[Engine]) -> None:
        self.members = members

    def load(self, tensors: Tensors) -> Any:
        raise NotImplementedError("each member loads its own weights")

    def dump(self, state: Any) -> Tensors:
        raise NotImplementedError("an ensemble has no weights of its own")

    def train(self, state: Any, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        raise NotImplementedError("each member is trained on its own")

    def logits(self, state: Any, tokens: np.ndarray, cache: Any = None) -> tuple[np.ndarray, Any]:
        """The logarithm of the mean probability, float64 (T, V)."""
        caches = cache or [None] * len(self.members)
        found = [
            engine.logits(own, tokens, kept) for engine, own, kept in zip(self.members, state, caches, strict=True)
        ]
        return mean_logits([logits for logits, _ in found]), [kept for _, kept in found]

    def loss(self, state: Any, feed: Feed) -> np.ndarray:
        losses = np.zeros(feed.n_steps)
        for step in range(feed.n_steps):
            for tokens, scored in feed.rows(step):
                logs, _ = self.logits(state, np.array(tokens[:-1], np.int32))
                nats = -logs[np.arange(len(logs)), tokens[1:]]
                losses[step] += float(nats[np.array(scored[1:], bool)].sum())
            losses[step] /= max(1, feed.targets(step))
        return losses


def mean_logits(members: Sequence[np.ndarray]) -> np.ndarray:
    """The logarithm of the mean of the members' probabilities, float64, from logits (…, V) of each."""
    logs = np.stack([_log_softmax(np.asarray(logits, np.float64)) for logits in members])
    return np.asarray(np.logaddexp.reduce(logs, axis=0) - np.log(len(members)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
