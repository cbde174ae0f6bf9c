"""The rows that each optimizer step trains on, and the held-out text: the protocol, and the corpus of documents.

Which row a step sees is a function of the seed and the step alone, so that resuming needs no history.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Protocol

import numpy as np

from microgpt.data.conversations import Conversation
from microgpt.data.documents import Documents
from microgpt.data.split import split
from microgpt.data.text_size import TextSize, total
from microgpt.data.token_folder import Encoded
from microgpt.errors import DataError
from microgpt.feed import Feed

EVAL_ROWS = 64  # rows per step of an evaluation
EVAL_STEPS = 64  # steps per feed of an evaluation


class TrainingRows(Protocol):
    """Rows of tokens to train on, of documents, of conversations or of a mix of texts."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the tokens of each step."""

    def place(self, row: int, block_size: int) -> int:
        """The document or conversation, counted from 0 in the text, in which a row of training begins."""

    def feed(self, first_step: int, n_steps: int, rows: int, block_size: int) -> Feed:
        """Steps first_step .. first_step + n_steps of `rows` rows each, in order, over and over."""


class Corpus(TrainingRows, Protocol):
    """The rows of one text, of documents or of conversations, and those of it that are held out."""

    @property
    def tokens(self) -> np.ndarray:
        """All tokens, of an integer type (N,); of shards, those of the first."""

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""

    @property
    def n_documents(self) -> int:
        """Documents, or rows of conversations, in all."""

    @property
    def n_held_out(self) -> int:
        """Documents, or rows of conversations, that are held out."""

    @property
    def held_out_size(self) -> TextSize:
        """The size of the held-out text."""

    def mean_row(self, block_size: int) -> float:
        """Positions trained per row, on average."""

    def n_rows(self, block_size: int) -> int:
        """Rows that are trained on before the first one comes again."""

    def held_out(self, block_size: int) -> Iterator[Feed]:
        """Every scored token of the held-out text once as a target."""

    def example_prompt(self, rng: Random) -> Conversation:
        """Messages for a sample to answer, drawn with `rng`; none where a sample is a document of its own."""

    def contains(self, texts: Sequence[str]) -> list[bool]:
        """Whether each of the texts is among those trained on. Reads the text again. Raises DataError, OSError."""


@dataclass(frozen=True)
class DocumentCorpus:
    """All documents as one array of tokens, BOS included, and the order in which they are trained on.

    A row is a document, cut to the context, or with packing "joined" one context out of all documents in their
    order, each closed by the next one's BOS.
    """

    documents: Documents
    encoded: Encoded
    order: np.ndarray  # int64 (documents,), shuffled
    n_train: int  # documents trained on: the first of the order; the rest is held out

    @property
    def joined(self) -> bool:
        """Whether rows are cut out of all documents joined to one stream."""
        return self.documents.data.packing == "joined"

    @property
    def tokens(self) -> np.ndarray:
        return self.encoded.tokens

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def offsets(self) -> np.ndarray:
        """Where each document begins, int64 (documents + 1,)."""
        return self.encoded.offsets

    @property
    def n_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_held_out(self) -> int:
        return len(self.order) - self.n_train

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens, of where documents begin, and of how they are put in rows."""
        digest = hashlib.sha256(f"{self.encoded.sha256} {self.n_train} {self.joined}".encode())
        digest.update(np.ascontiguousarray(self.order, "<i8").data)
        return digest.hexdigest()

    def mean_row(self, block_size: int) -> float:
        return float(block_size if self.joined else np.minimum(np.diff(self.offsets) - 1, block_size).mean())

    def n_rows(self, block_size: int) -> int:
        return max(1, int(self._ends[-1]) // block_size) if self.joined else self.n_train

    def place(self, row: int, block_size: int) -> int:
        if not self.joined:
            return int(self.order[row % self.n_train])
        begin = self._row(np.array([row]), block_size)[0] * block_size
        return int(self.order[np.searchsorted(self._ends, begin, side="right")])

    def feed(self, first_step: int, n_steps: int, rows: int, block_size: int) -> Feed:
        at = np.arange(first_step * rows, (first_step + n_steps) * rows)
        steps = np.arange(0, n_steps * rows + 1, rows)
        if self.joined:
            stream: np.ndarray | None = self._training
            begins, lengths = self._row(at, block_size) * block_size, np.full(len(at), block_size + 1)
        else:
            stream, documents = None, self.order[at % self.n_train]
            begins = self.offsets[documents]
            lengths = np.minimum(self.offsets[documents + 1] - begins, block_size + 1)
        return self._feed(begins, lengths, steps, stream, first_step)

    def held_out(self, block_size: int) -> Iterator[Feed]:
        """Every token of the held-out documents once as a target, a document in as many rows as it needs."""
        documents = self.order[self.n_train :]
        targets = np.diff(self.offsets)[documents] - 1
        if self.joined:  # one long document
            targets = np.array([targets.sum() + len(targets) - 1])
        rows = -(-targets // block_size)
        ends = np.cumsum(rows)
        for low in range(0, int(ends[-1]) if len(ends) else 0, EVAL_ROWS * EVAL_STEPS):
            row = np.arange(low, min(low + EVAL_ROWS * EVAL_STEPS, int(ends[-1])))
            which = np.searchsorted(ends, row, side="right")
            begins = (row - (ends - rows)[which]) * block_size
            lengths = np.minimum(targets[which] - begins, block_size) + 1
            steps = np.append(np.arange(0, len(row), EVAL_ROWS), len(row))
            if self.joined:
                yield self._feed(begins, lengths, steps, documents)
            else:
                yield self._feed(begins + self.offsets[documents[which]], lengths, steps, None)

    @cached_property
    def held_out_size(self) -> TextSize:
        """The size of the held-out documents."""
        return total(self.encoded.sizes[self.order[self.n_train :]])

    def example_prompt(self, rng: Random) -> Conversation:
        return []

    def contains(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is a document trained on, or part of one where documents are longer than a row."""
        trained = np.zeros(self.n_documents, dtype=bool)
        trained[self._training] = True
        part = self.joined or self.documents.data.format == "chunks"
        wanted = {stripped for text in texts if (stripped := text.strip())}
        found: set[str] = set()
        for document, is_trained in zip(self.documents.texts, trained.tolist(), strict=True):
            if not is_trained:
                continue
            if part:
                found |= {text for text in wanted - found if text in document}
            elif document in wanted:
                found.add(document)
        return [text.strip() in found for text in texts]

    @cached_property
    def _training(self) -> np.ndarray:
        return self.order[: self.n_train]

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where each training document ends in the joined stream."""
        return np.cumsum(np.diff(self.offsets)[self._training])

    def _row(self, at: np.ndarray, block_size: int) -> np.ndarray:
        """The rows in an order that keeps neighbours apart: multiples of about 0.618 of their number, so that every row
        comes once before the first one comes again."""
        n = self.n_rows(block_size)
        stride = next(s for s in range(max(1, round(0.618 * n)), 2 * n + 1) if math.gcd(s, n) == 1)
        return at % n * stride % n

    def _feed(
        self, begins: np.ndarray, lengths: np.ndarray, steps: np.ndarray, stream: np.ndarray | None, first_step: int = 0
    ) -> Feed:
        """Rows by their beginnings in the tokens, or in the stream of some documents joined end to end."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        if stream is not None:
            begins, lengths = self._pieces(begins, lengths, stream)
        at = np.arange(offsets[-1]) + np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
        tokens = self.tokens[at].astype(np.int32, copy=False)
        self.encoded.release()
        scored = np.ones(len(tokens), dtype=bool)
        scored[offsets[:-1]] = False
        return Feed(tokens, offsets, steps.astype(np.int64), scored, first_step)

    def _pieces(self, begins: np.ndarray, lengths: np.ndarray, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the stream as pieces of its documents: where each begins in the tokens, and its length.

        Two searches per row find its first and last document. The stream repeats, so documents are counted on
        through its repetitions.
        """
        ends = self._ends if stream is self._training else np.cumsum(np.diff(self.offsets)[stream])
        n, total = len(stream), int(ends[-1])
        first, last = (
            at // total * n + np.searchsorted(ends, at % total, side="right") for at in (begins, begins + lengths - 1)
        )
        counts = last - first + 1
        place = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        document, end = stream[place % n], place // n * total + ends[place % n]
        begin = end - (self.offsets[document + 1] - self.offsets[document])
        low = np.maximum(begin, np.repeat(begins, counts))
        high = np.minimum(end, np.repeat(begins + lengths, counts))
        return self.offsets[document] + low - begin, high - low


def build(documents: Documents, encoded: Encoded, rng: Random, val_fraction: float) -> DocumentCorpus:
    """Shuffle the documents with `rng` and hold some out, see `split`. Raises DataError if too few are left."""
    places = range(len(encoded.offsets) - 1) if encoded.kept is None else encoded.kept
    train, held = split(places, encoded.sizes[:, 0], documents.data, rng, val_fraction)
    if not len(train) or (val_fraction and not len(held)):
        raise DataError(
            f"{len(places)} documents are too few to hold out {val_fraction:.0%} of them; set "
            f"--val-fraction 0, or name a held-out file with --val-data"
        )
    return DocumentCorpus(documents, encoded, np.concatenate([train, held]), len(train))


def all_held_out(documents: Documents, encoded: Encoded) -> DocumentCorpus:
    """A corpus to measure on: every document is held out, in the text's order."""
    return DocumentCorpus(documents, encoded, np.arange(len(encoded.offsets) - 1, dtype=np.int64), 0)
