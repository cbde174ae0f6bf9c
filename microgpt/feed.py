"""The input of an engine: rows of tokens for a block of optimizer steps, packed into flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Feed:
    """Rows of tokens, the steps they belong to, and which of them are scored as targets.

    A row of n tokens trains n - 1 positions: token t predicts token t + 1. The loss of a step is the mean over
    the scored targets of all its rows, so micro-batches of a few rows each add up to the same step.
    """

    tokens: np.ndarray  # int32 (N,), the rows one after another
    offsets: np.ndarray  # int64 (R + 1,), where each row begins
    steps: np.ndarray  # int64 (S + 1,), the first row of each step
    scored: np.ndarray  # bool (N,), whether a token counts as a target; a row's first never does
    first_step: int = 0  # optimizer steps taken before this feed
    micro_batch_size: int = 0  # rows computed at once (gradient accumulation); 0: all of a step
    seed: int = 0  # of the dropout masks

    @property
    def n_steps(self) -> int:
        """Optimizer steps in the feed."""
        return len(self.steps) - 1

    @property
    def n_targets(self) -> int:
        """Scored targets of all steps."""
        return int(self.scored.sum())

    def targets(self, step: int) -> int:
        """Scored targets of one step."""
        first, last = self.offsets[self.steps[step]], self.offsets[self.steps[step + 1]]
        return int(self.scored[first:last].sum())

    def part(self, first: int, last: int) -> Feed:
        """The steps first .. last alone (as far as there are any)."""
        steps = self.steps[first : last + 1]
        offsets = self.offsets[steps[0] : steps[-1] + 1]
        where = slice(offsets[0], offsets[-1])
        first_step, tokens, scored = self.first_step + first, self.tokens[where], self.scored[where]
        offsets, steps = offsets - offsets[0], steps - steps[0]
        return replace(self, tokens=tokens, offsets=offsets, steps=steps, scored=scored, first_step=first_step)

    def rows(self, step: int) -> Iterator[tuple[list[int], list[bool]]]:
        """The rows of a step as lists (tokens, scored), for engines that go token by token."""
        for row in range(self.steps[step], self.steps[step + 1]):
            where = slice(self.offsets[row], self.offsets[row + 1])
            yield self.tokens[where].tolist(), self.scored[where].tolist()

    def micro_batches(self, step: int, rank: int = 0, size: int = 1) -> Iterator[MicroBatch]:
        """The rows of a step in micro-batches, padded into rectangles: of `size` equal shares that of number `rank`."""
        first, n = int(self.steps[step]), int(self.steps[step + 1] - self.steps[step])
        low, high = first + n * rank // size, first + n * (rank + 1) // size
        weight = 1.0 / max(1, self.targets(step))
        for at in range(low, high, self.micro_batch_size or max(1, n)):
            yield self._pad(at, min(at + (self.micro_batch_size or n), high), at - first, weight)

    def _pad(self, low: int, high: int, first_row: int, weight: float) -> MicroBatch:
        begins, ends = self.offsets[low:high], self.offsets[low + 1 : high + 1]
        T = int((ends - begins).max()) - 1
        at = begins[:, None] + np.arange(T)
        inside = at < ends[:, None] - 1
        at = np.where(inside, at, 0)
        scored = self.scored[at + 1] & inside
        return MicroBatch(self.tokens[at], self.tokens[at + 1], scored * weight, first_row)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A rectangle of rows: padding has weight 0 and lies after every real position, so that no gradient and,
    by causality, no activation of a real position depends on it."""

    inputs: np.ndarray  # int32 (B, T)
    targets: np.ndarray  # int32 (B, T)
    weights: np.ndarray  # float64 (B, T), 1 / targets of the step where scored, else 0
    first_row: int  # the first row's place in its step


def pack(
    rows: Sequence[Sequence[int]],
    scored: Sequence[Sequence[bool]] | None = None,
    *,
    rows_per_step: int = 1,
    **rest: int,
) -> Feed:
    """A feed of rows in order; every token but a row's first is scored unless `scored` says otherwise.

    `rest` are Feed's first_step, micro_batch_size and seed.
    Raises ValueError for a row of fewer than two tokens, which has no position to train.
    """
    if any(len(row) < 2 for row in rows):
        raise ValueError("a row needs at least two tokens")
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
    if scored is None:
        mask = np.ones(len(tokens), dtype=bool)
    else:
        mask = np.fromiter((flag for row in scored for flag in row), dtype=bool, count=len(tokens))
    mask[offsets[:-1]] = False
    steps = np.append(np.arange(0, len(rows), rows_per_step), len(rows)).astype(np.int64)
    return Feed(tokens, offsets, steps, mask, **rest)
