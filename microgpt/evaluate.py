"""How well a model predicts text that it did not train on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from microgpt.engines import Engine, Feed

BLOCK_SECONDS = 0.1  # the longest time between two pauses that is aimed at


def held_out_loss(engine: Engine, state: Any, feed: Feed, pause: Callable[[], None] = lambda: None) -> float:
    """The mean of -log probability over all scored targets of the feed, in nats.

    `pause` is called every now and then; it may end the evaluation by raising.
    """
    counts = np.array([feed.targets(step) for step in range(feed.n_steps)])
    losses: list[np.ndarray] = []
    first, size = 0, 1
    while first < feed.n_steps:
        pause()
        start = time.perf_counter()
        losses.append(engine.loss(state, feed.part(first, first + size)))
        first += size
        size = 2 * size if time.perf_counter() - start < BLOCK_SECONDS / 2 else size
    return float(np.dot(np.concatenate(losses), counts) / counts.sum())
