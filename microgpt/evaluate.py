"""How well a model predicts text that it did not train on."""

from __future__ import annotations

from typing import Any

import numpy as np

from microgpt.engines import Engine, Feed


def held_out_loss(engine: Engine, state: Any, feed: Feed) -> float:
    """The mean of -log probability over all scored targets of the feed, in nats."""
    counts = np.array([feed.targets(step) for step in range(feed.n_steps)])
    return float(np.dot(engine.loss(state, feed), counts) / counts.sum())
