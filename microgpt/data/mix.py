"""The mixing of old rows into new ones, so that a model that learns something new does not forget the old."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from microgpt.data.corpus import TrainingRows
from microgpt.feed import Feed


@dataclass(frozen=True)
class Mix:
    """New rows with a share of old ones between them. Which row a step sees depends on the step alone."""

    new: TrainingRows
    old: TrainingRows
    share: float  # of the rows that are old ones

    @property
    def fingerprint(self) -> str:
        """SHA-256 of both corpora's fingerprints and the share."""
        return hashlib.sha256(f"{self.new.fingerprint} {self.old.fingerprint} {self.share}".encode()).hexdigest()

    def place(self, row: int, block_size: int) -> int:
        """The document of a row of training, in the text that it comes from."""
        olds = int(self._olds(np.array([row]))[0])
        is_old = int(self._olds(np.array([row + 1]))[0]) > olds
        return self.old.place(olds, block_size) if is_old else self.new.place(row - olds, block_size)

    def feed(self, first_step: int, n_steps: int, rows: int, block_size: int) -> Feed:
        """Steps of `rows` rows each, old rows at fixed places between the new ones."""
        first, last = first_step * rows, (first_step + n_steps) * rows
        olds = self._olds(np.arange(first, last + 1))
        is_old = np.diff(olds).astype(bool)
        old = _single_rows(self.old, int(olds[0]), int(olds[-1]), block_size)
        new = _single_rows(self.new, first - int(olds[0]), last - int(olds[-1]), block_size)
        drawn = [next(old if flag else new) for flag in is_old.tolist()]
        return Feed(
            np.concatenate([tokens for tokens, _ in drawn]),
            np.cumsum([0, *(len(tokens) for tokens, _ in drawn)], dtype=np.int64),
            np.arange(0, n_steps * rows + 1, rows, dtype=np.int64),
            np.concatenate([scored for _, scored in drawn]),
            first_step,
        )

    def _olds(self, rows: np.ndarray) -> np.ndarray:
        """The number of old rows before each row."""
        return np.floor(rows * self.share).astype(np.int64)


def _single_rows(
    corpus: TrainingRows, first: int, last: int, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if last > first:
        feed = corpus.feed(first, last - first, 1, block_size)
        for begin, end in zip(feed.offsets[:-1].tolist(), feed.offsets[1:].tolist(), strict=True):
            yield feed.tokens[begin:end], feed.scored[begin:end]
