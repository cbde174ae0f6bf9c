"""Conversations as rows of tokens with a mask of the scored ones, and the order in which they are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

from microgpt.config import Data
from microgpt.data.chat_rows import ChatRows
from microgpt.data.conversations import Chats, Conversation
from microgpt.data.split import split
from microgpt.data.text_size import TextSize, total
from microgpt.errors import DataError
from microgpt.feed import Feed

EVAL_ROWS = 64  # rows per step of an evaluation
EVAL_STEPS = 64  # steps per feed of an evaluation of rows on disk
GATHERED = 4096  # rows that are hashed at once


@dataclass(frozen=True)
class ChatCorpus:
    """All rows of all conversations, in the order of training: rows of the same conversation one after another."""

    chats: Chats
    rows: ChatRows  # in the order of the text
    at: np.ndarray  # int64 (rows,): the rows in the order of training
    n_train: int  # rows trained on, the first ones; the rest is held out

    @property
    def tokens(self) -> np.ndarray:
        return self.rows.encoded.tokens

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        return len(self.at)

    @cached_property
    def order(self) -> np.ndarray:
        """The conversation of each row in the order of training, counted from 0 in the text, int64 (rows,)."""
        return self.rows.places[self.at]

    @property
    def held_out_size(self) -> TextSize:
        """The size of the scored text of the held-out rows."""
        return total(self.rows.encoded.sizes[self.at[self.n_train :]])

    @property
    def n_held_out(self) -> int:
        return len(self.at) - self.n_train

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens, of where rows begin, of what is scored and of the order, in the order of training."""
        digest = hashlib.sha256(str(self.n_train).encode())
        for part in self._gathered():
            digest.update(np.ascontiguousarray(part.tokens, "<i4").data)
        digest.update(np.concatenate([[0], np.cumsum(self._lengths[self.at])]).astype("<i8").data)
        for part in self._gathered():
            digest.update(np.ascontiguousarray(part.scored, "?").data)
        digest.update(np.ascontiguousarray(self.order, "<i8").data)
        return digest.hexdigest()

    @property
    def _lengths(self) -> np.ndarray:
        """The tokens of each row, int64 (rows,)."""
        return np.diff(self.rows.encoded.offsets)

    def _gathered(self) -> Iterator[Feed]:
        """All rows in the order of training, a few at a time."""
        for low in range(0, len(self.at), GATHERED):
            rows = self.at[low : low + GATHERED]
            yield self._rows(rows, np.array([0, len(rows)]), 0)

    def mean_row(self, block_size: int) -> float:
        return float(np.minimum(self._lengths - 1, block_size).mean())

    def n_rows(self, block_size: int) -> int:
        return self.n_train

    def place(self, row: int, block_size: int) -> int:
        return int(self.order[row % self.n_train])

    def feed(self, first_step: int, n_steps: int, rows: int, block_size: int) -> Feed:
        which = np.arange(first_step * rows, (first_step + n_steps) * rows) % self.n_train
        return self._rows(self.at[which], np.arange(0, n_steps * rows + 1, rows), first_step)

    def held_out(self, block_size: int) -> Iterator[Feed]:
        held = self.at[self.n_train :]
        # rows in memory are one feed, whose losses are one sum
        most = EVAL_ROWS * EVAL_STEPS if self.rows.encoded.pages else max(1, len(held))
        for low in range(0, len(held), most):
            rows = held[low : low + most]
            yield self._rows(rows, np.append(np.arange(0, len(rows), EVAL_ROWS), len(rows)), 0)

    def example_prompt(self, rng: Random) -> Conversation:
        """A conversation of the text up to its first answer."""
        conversation = rng.choice(self.chats.conversations)
        return conversation[: next(i for i, message in enumerate(conversation) if message.role == "assistant")]

    def contains(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is an answer in a conversation that is trained on."""
        trained = np.zeros(len(self.chats.conversations), dtype=bool)
        trained[self.order[: self.n_train]] = True
        wanted, found = {text.strip() for text in texts}, set[str]()
        for conversation, is_trained in zip(self.chats.conversations, trained.tolist(), strict=True):
            answers = (message.content.strip() for message in conversation if message.role == "assistant")
            found.update(wanted.intersection(answers) if is_trained else ())
        return [text.strip() in found for text in texts]

    def _rows(self, rows: np.ndarray, steps: np.ndarray, first_step: int) -> Feed:
        begins = self.rows.encoded.offsets[rows]
        lengths = self.rows.encoded.offsets[rows + 1] - begins
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
        tokens, scored = self.tokens[at].astype(np.int32, copy=False), self.rows.scored[at]
        self.rows.release()
        return Feed(tokens, offsets, steps.astype(np.int64), scored, first_step)


def build(chats: Chats, rows: ChatRows, data: Data, rng: Random, val_fraction: float) -> ChatCorpus:
    """Shuffle conversations with `rng` and hold some out with all their rows, see `split`.

    Raises DataError if too few are left to train on.
    """
    n = len(rows.bytes)
    train, held = split(range(n), rows.bytes, data, rng, val_fraction)
    if not len(train) or (val_fraction and not len(held)):
        raise DataError(f"{n} conversations are too few to hold out {val_fraction:.0%} of them; set --val-fraction 0")
    begins = np.searchsorted(rows.places, np.arange(n + 1))
    order = np.concatenate([train, held])
    counts = np.diff(begins)[order]
    ends = np.cumsum(counts)
    at = np.arange(ends[-1]) + np.repeat(begins[order] - ends + counts, counts)
    return ChatCorpus(chats, rows, at, int(ends[len(train) - 1]))


def all_held_out(chats: Chats, rows: ChatRows) -> ChatCorpus:
    """A corpus to measure on: every conversation is held out, in the text's order."""
    return ChatCorpus(chats, rows, np.arange(len(rows.places)), 0)
