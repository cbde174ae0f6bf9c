"""Documents as tokens, and the rows that each optimizer step trains on.

Which row a step sees is a function of the seed and the step alone, so that resuming needs no history.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random

import numpy as np

from microgpt.engines import Feed
from microgpt.errors import DataError
from microgpt.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Corpus:
    """All documents as one array of tokens, BOS included, and the order in which they are trained on."""

    tokens: np.ndarray  # int32 (N,)
    offsets: np.ndarray  # int64 (documents + 1,)
    order: np.ndarray  # int64 (documents,), shuffled
    n_train: int  # documents trained on: the first of the order; the rest is held out

    @property
    def n_documents(self) -> int:
        """Documents in all."""
        return len(self.offsets) - 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and of where documents begin: another text or order of it has another one."""
        digest = hashlib.sha256(np.ascontiguousarray(self.tokens, "<i4").data)
        digest.update(np.ascontiguousarray(self.offsets, "<i8").data)
        return digest.hexdigest()

    def mean_row(self, block_size: int) -> float:
        """Positions a row trains, on average."""
        return float(np.minimum(np.diff(self.offsets) - 1, block_size).mean())

    def feed(
        self, first_step: int, n_steps: int, rows: int, block_size: int, *, rows_a_pass: int = 0, seed: int = 0
    ) -> Feed:
        """Steps first_step .. first_step + n_steps of `rows` documents each, in order, over and over."""
        at = np.arange(first_step * rows, (first_step + n_steps) * rows) % self.n_train
        steps = np.arange(0, n_steps * rows + 1, rows)
        return self._rows(self.order[at], steps, block_size, first_step, rows_a_pass, seed)

    def held_out(self, block_size: int, rows: int = 64) -> Feed:
        """All held-out documents, `rows` a step."""
        documents = self.order[self.n_train :]
        steps = np.append(np.arange(0, len(documents), rows), len(documents))
        return self._rows(documents, steps, block_size, 0, 0, 0)

    def _rows(
        self, documents: np.ndarray, steps: np.ndarray, block_size: int, first_step: int, rows_a_pass: int, seed: int
    ) -> Feed:
        begins = self.offsets[documents]
        lengths = np.minimum(self.offsets[documents + 1] - begins, block_size + 1)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = self.tokens[np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)]
        scored = np.ones(len(tokens), dtype=bool)
        scored[offsets[:-1]] = False
        return Feed(tokens, offsets, steps.astype(np.int64), scored, first_step, rows_a_pass, seed)


def build(texts: list[str], tokenizer: Tokenizer, rng: Random, *, trailing_bos: bool, val_fraction: float) -> Corpus:
    """Encode documents as BOS + tokens (+ BOS), shuffle their order with `rng`, hold out the last of it.

    Raises DataError if nothing is left to train on, or a character is unknown.
    """
    encoded = [tokenizer.encode(text) for text in texts]
    ends = np.cumsum([len(tokens) + 1 + trailing_bos for tokens in encoded])
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    tokens = np.full(offsets[-1], tokenizer.bos, dtype=np.int32)
    for begin, document in zip(offsets.tolist(), encoded, strict=False):
        tokens[begin + 1 : begin + 1 + len(document)] = document
    order = list(range(len(texts)))
    rng.shuffle(order)
    n_train = len(texts) - round(len(texts) * val_fraction)
    if n_train < 1 or (val_fraction and n_train == len(texts)):
        raise DataError(
            f"{len(texts)} documents are too few to hold out {val_fraction:.0%} of them; set --val-fraction 0"
        )
    return Corpus(tokens, offsets, np.array(order, dtype=np.int64), n_train)
