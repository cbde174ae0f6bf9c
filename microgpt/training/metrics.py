"""The lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from microgpt.feed import Feed


def step_lines(
    feed: Feed, losses: np.ndarray, lrs: np.ndarray, norms: np.ndarray, tokens: int, seconds: tuple[float, float]
) -> str:
    """A line per step of a block. `tokens` were trained before it; `seconds` are those at its beginning and end."""
    counts = np.add.reduceat(feed.scored, feed.offsets[feed.steps[:-1]], dtype=np.int64).cumsum()
    begun, end = seconds
    return "".join(
        f'{{"step": {feed.first_step + i + 1}, "loss": {loss!r}, "lr": {lr!r}, "grad_norm": {norm:.6g}, '
        f'"tokens": {tokens + int(counts[i])}, "seconds": {begun + (end - begun) * (i + 1) / len(losses):.6f}}}\n'
        for i, (loss, lr, norm) in enumerate(zip(losses.tolist(), lrs.tolist(), norms.tolist(), strict=False))
    )


def evaluation_line(found: Mapping[str, float | int]) -> str:
    """The line of an evaluation."""
    return "{" + ", ".join(f'"{key}": {value!r}' for key, value in found.items()) + "}\n"
