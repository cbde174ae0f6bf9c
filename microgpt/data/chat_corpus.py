"""Rows with a mask of what is scored, and the mixing of old rows into new ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Protocol

import numpy as np

from microgpt.errors import DataError
from microgpt.feed import Feed

EVAL_ROWS = 64  # rows of a step without update


class Scored(Protocol):
    """A row of tokens and which of them count in the loss."""

    @property
    def tokens(self) -> list[int]:
        """Tokens, BOS first."""

    @property
    def scored(self) -> list[bool]:
        """A flag a token."""


@dataclass(frozen=True)
class Dialogues:
    """All rows of all conversations, in the order of training: rows of the same conversation one after another."""

    tokens: np.ndarray  # int32 (N,)
    offsets: np.ndarray  # int64 (rows + 1,)
    scored: np.ndarray  # bool (N,)
    order: np.ndarray  # int64 (rows,): the conversation, counted from 0 in the text, of each row
    n_train: int  # rows trained on, the first ones; the rest is held out
    held_out_bytes: int  # of the scored text of the held-out rows, in UTF-8

    joined = False  # a row is never made of several conversations

    @property
    def n_documents(self) -> int:
        """Rows in all."""
        return len(self.order)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens, of where rows begin, of what is scored and of the order."""
        digest = hashlib.sha256(str(self.n_train).encode())
        for numbers, dtype in ((self.tokens, "<i4"), (self.offsets, "<i8"), (self.scored, "?"), (self.order, "<i8")):
            digest.update(np.ascontiguousarray(numbers, dtype).data)
        return digest.hexdigest()

    def mean_row(self, block_size: int) -> float:
        """Positions a row trains, on average."""
        return float(np.minimum(np.diff(self.offsets) - 1, block_size).mean())

    def n_rows(self, block_size: int) -> int:
        """Rows that are trained on before they come again."""
        return self.n_train

    def place(self, row: int, block_size: int) -> int:
        """The conversation, counted from 0 in the text, of a row of training."""
        return int(self.order[row % self.n_train])

    def feed(
        self, first_step: int, n_steps: int, rows: int, block_size: int, *, micro_batch_size: int = 0, seed: int = 0
    ) -> Feed:
        """Steps first_step .. first_step + n_steps of `rows` rows each, in order, over and over."""
        at = np.arange(first_step * rows, (first_step + n_steps) * rows) % self.n_train
        return self._rows(at, np.arange(0, n_steps * rows + 1, rows), first_step, micro_batch_size, seed)

    def held_out(self, block_size: int) -> Iterator[Feed]:
        """The held-out rows."""
        at = np.arange(self.n_train, self.n_documents)
        if len(at):
            yield self._rows(at, np.append(np.arange(0, len(at), EVAL_ROWS), len(at)), 0, 0, 0)

    def _rows(self, rows: np.ndarray, steps: np.ndarray, first_step: int, micro_batch_size: int, seed: int) -> Feed:
        begins = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begins
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
        return Feed(
            self.tokens[at], offsets, steps.astype(np.int64), self.scored[at], first_step, micro_batch_size, seed
        )


def build_dialogues(
    conversations: Sequence[Sequence[Scored]],
    rng: Random | None,
    n_bytes: Callable[[list[int]], int],
    *,
    val_fraction: float,
) -> Dialogues:
    """Shuffle conversations with `rng` and hold out the last of them, with all their rows (without `rng`: all).

    `n_bytes` measures the text of scored tokens. Raises DataError if too few are left to train on.
    """
    order = list(range(len(conversations)))
    n_held = round(len(order) * val_fraction)
    if rng:
        rng.shuffle(order)
    if rng and (n_held == len(order) or (val_fraction and not n_held)):
        raise DataError(
            f"{len(order)} conversations are too few to hold out {val_fraction:.0%} of them; set --val-fraction 0"
        )
    placed = [(place, row) for place in order for row in conversations[place]]
    n_train = sum(len(conversations[place]) for place in order[: len(order) - n_held])
    held = [[t for t, s in zip(row.tokens, row.scored, strict=True) if s] for _, row in placed[n_train:]]
    return Dialogues(
        np.array([token for _, row in placed for token in row.tokens], dtype=np.int32),
        np.cumsum([0, *(len(row.tokens) for _, row in placed)], dtype=np.int64),
        np.array([flag for _, row in placed for flag in row.scored], dtype=bool),
        np.array([place for place, _ in placed], dtype=np.int64),
        n_train,
        sum(map(n_bytes, held)),
    )


@dataclass(frozen=True)
class Mix:
    """New rows with a share of old ones strewn in; which row a step sees still depends on the step alone."""

    new: Any  # a corpus
    old: Any
    share: float  # of the rows that are old ones

    def __getattr__(self, name: str) -> Any:
        return getattr(self.new, name)  # what is held out, and what is told, is the new data's

    @property
    def fingerprint(self) -> str:
        """Of both and of the share."""
        return hashlib.sha256(f"{self.new.fingerprint} {self.old.fingerprint} {self.share}".encode()).hexdigest()

    def place(self, row: int, block_size: int) -> int:
        """The document of a row of training, in the text that it comes from."""
        olds = int(self._olds(np.array([row]))[0])
        is_old = int(self._olds(np.array([row + 1]))[0]) > olds
        return int(self.old.place(olds, block_size) if is_old else self.new.place(row - olds, block_size))

    def feed(
        self, first_step: int, n_steps: int, rows: int, block_size: int, *, micro_batch_size: int = 0, seed: int = 0
    ) -> Feed:
        """Steps of `rows` rows each, new and old in fixed turns."""
        first, last = first_step * rows, (first_step + n_steps) * rows
        olds = self._olds(np.arange(first, last + 1))
        is_old = np.diff(olds).astype(bool)
        old = list(_single_rows(self.old, int(olds[0]), int(olds[-1]), block_size))
        new = list(_single_rows(self.new, first - int(olds[0]), last - int(olds[-1]), block_size))
        old.reverse()
        new.reverse()
        drawn = [old.pop() if flag else new.pop() for flag in is_old.tolist()]
        return Feed(
            np.concatenate([tokens for tokens, _ in drawn]),
            np.cumsum([0, *(len(tokens) for tokens, _ in drawn)], dtype=np.int64),
            np.arange(0, n_steps * rows + 1, rows, dtype=np.int64),
            np.concatenate([scored for _, scored in drawn]),
            first_step,
            micro_batch_size,
            seed,
        )

    def _olds(self, rows: np.ndarray) -> np.ndarray:
        """How many of the rows before each one are old ones."""
        return np.floor(rows * self.share).astype(np.int64)


def _single_rows(corpus: Any, first: int, last: int, block_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if last > first:
        feed = corpus.feed(first, last - first, 1, block_size)
        for begin, end in zip(feed.offsets[:-1].tolist(), feed.offsets[1:].tolist(), strict=True):
            yield feed.tokens[begin:end], feed.scored[begin:end]
