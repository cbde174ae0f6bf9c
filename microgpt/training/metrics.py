"""The lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from microgpt.feed import Feed


def step_lines(
    feed: Feed, losses: np.ndarray, lrs: np.ndarray, norms: np.ndarray, tokens: int, seconds: tuple[float, float]
) -> str:
    """A line per step of a block. `tokens` were trained before it; `seconds` are those at its beginning and end."""
    counts = tokens + np.add.reduceat(feed.scored, feed.offsets[feed.steps[:-1]], dtype=np.int64).cumsum()
    begun, end = seconds
    number = np.arange(1, len(losses) + 1)
    columns = feed.first_step + number, losses, lrs, norms, counts, begun + (end - begun) * number / len(losses)
    return "".join(  # of a list, and of whole columns: it is a third of the time of a run of tiny steps
        [
            f'{{"step": {step}, "loss": {loss!r}, "lr": {lr!r}, "grad_norm": {norm:.6g}, '
            f'"tokens": {count}, "seconds": {at:.6f}}}\n'
            for step, loss, lr, norm, count, at in zip(*(column.tolist() for column in columns), strict=False)
        ]
    )


def evaluation_line(found: Mapping[str, float | int]) -> str:
    """The line of an evaluation."""
    return "{" + ", ".join(f'"{key}": {value!r}' for key, value in found.items()) + "}\n"
