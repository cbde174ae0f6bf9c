"""A corpus of shards: trained on one after another, each shuffled on its own, so that memory holds the order of two.

Order and held-out documents are functions of the seed and the position, which need no list of all documents: those of
a shard are sorted by a hash of their position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

import numpy as np

from microgpt import json_text
from microgpt.config import Data
from microgpt.data.conversations import Conversation
from microgpt.data.corpus import DocumentCorpus
from microgpt.data.documents import Documents, shared
from microgpt.data.shards import Shards
from microgpt.data.text_size import TextSize, measure, total
from microgpt.data.token_folder import Encoded
from microgpt.errors import DataError
from microgpt.feed import Feed
from microgpt.tokenizers import Tokenizer

KEPT = 2  # shards whose order is in memory: a feed may span two


def hashes(key: str, n: int) -> np.ndarray:
    """A number for each of n positions, uint64 (n,), by SplitMix64 (Steele, Lea & Flood 2014) from the key's hash."""
    begin = np.frombuffer(hashlib.sha256(key.encode()).digest()[:8], "<u8")
    z = begin + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class ShardDocuments(Documents):
    """The documents of a shard, decoded from its tokens."""

    def __init__(self, encoded: Encoded, tokenizer: Tokenizer, data: Data) -> None:
        super().__init__([], data, "")
        self.encoded, self.tokenizer = encoded, tokenizer

    @property
    def texts(self) -> Iterable[str]:
        offsets = self.encoded.offsets
        for i in range(len(offsets) - 1):
            yield self.tokenizer.decode(self.encoded.tokens[offsets[i] : offsets[i + 1]])


@dataclass(frozen=True)
class ShardedCorpus:
    """The documents of all shards; see DocumentCorpus for rows."""

    source: Shards
    seed: int  # of the order
    fraction: float  # of each shard's documents that is held out, or of all tokens at the end; 1: all
    _rows: dict[int, np.ndarray] = field(default_factory=dict, compare=False)
    _corpora: dict[int, DocumentCorpus] = field(default_factory=dict, compare=False)

    @property
    def joined(self) -> bool:
        """Whether rows are cut out of all documents of a shard joined to one stream."""
        return self.source.data.packing == "joined"

    @property
    def tokens(self) -> np.ndarray:
        return self.source.shards[0].encoded().tokens

    @property
    def n_tokens(self) -> int:
        return sum(shard.n_tokens for shard in self.source.shards)

    @property
    def n_documents(self) -> int:
        return sum(shard.n_documents for shard in self.source.shards)

    @cached_property
    def n_held_out(self) -> int:
        return sum(len(self._held_places(k)) for k in range(len(self.source.shards)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the shards, and of what decides the order, the held-out documents and the rows."""
        data = self.source.data
        rule = [self.seed, self.fraction, data.split_seed, data.val_split, shared(data), self.joined]
        whole = [[shard.sha256 for shard in self.source.shards], rule]
        return hashlib.sha256(json_text.dumps(whole).encode()).hexdigest()

    def mean_row(self, block_size: int) -> float:
        """Positions trained per row, on average in the first shard."""
        lengths = np.diff(self.source.shards[0].encoded().offsets)
        return float(block_size if self.joined else np.minimum(lengths - 1, block_size).mean())

    def n_rows(self, block_size: int) -> int:
        return int(self._ends(block_size)[-1])

    def place(self, row: int, block_size: int) -> int:
        k, local, _ = self._find(row, block_size)
        return int(self._starts[k]) + self._corpus(k).place(local, block_size)

    def feed(self, first_step: int, n_steps: int, rows: int, block_size: int) -> Feed:
        row, last, parts = first_step * rows, (first_step + n_steps) * rows, list[Feed]()
        while row < last:
            k, local, left = self._find(row, block_size)
            parts.append(self._corpus(k).feed(local, min(left, last - row), 1, block_size))
            row += parts[-1].n_steps
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return Feed(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.arange(0, n_steps * rows + 1, rows, dtype=np.int64),
            np.concatenate([part.scored for part in parts]),
            first_step,
        )

    def held_out(self, block_size: int) -> Iterator[Feed]:
        """Every token of the held-out documents once as a target, shard by shard."""
        for k, shard in enumerate(self.source.shards):
            if len(held := self._held_places(k)):
                yield from self._of(shard.encoded(), held, 0).held_out(block_size)

    @cached_property
    def held_out_size(self) -> TextSize:
        """The size of the held-out documents; of tokens without their text's size, that of the decoded text."""
        sizes = [np.zeros((1, 4), np.int64)]
        for k, shard in enumerate(self.source.shards):
            held, encoded = self._held_places(k), shard.encoded()
            if self.source.measured:
                sizes.append(encoded.sizes[held].sum(axis=0, keepdims=True))
                continue
            for place in held.tolist():
                tokens = encoded.tokens[encoded.offsets[place] : encoded.offsets[place + 1]]
                text = [self.source.tokenizer.decode(tokens)]
                sizes.append(measure(self.source.tokenizer, text, text, tokens, np.array([len(tokens)])))
        return total(np.concatenate(sizes))

    def example_prompt(self, rng: Random) -> Conversation:
        return []

    def contains(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is a document trained on, or part of one where rows are; the tokens are decoded."""
        found = [self._corpus(k).contains(texts) for k in range(len(self.source.shards))]
        return [any(column) for column in zip(*found, strict=True)]

    @cached_property
    def _starts(self) -> np.ndarray:
        """The number of documents before each shard, and of all."""
        return np.cumsum([0, *(shard.n_documents for shard in self.source.shards)])

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(hashes(f"{self.seed} shards", len(self.source.shards)), kind="stable")

    def _ends(self, block_size: int) -> np.ndarray:
        """The number of rows up to the end of each shard, in the order of training."""
        if block_size not in self._rows:
            self._rows[block_size] = np.cumsum([self._n_rows(k, block_size) for k in self._order.tolist()])
        return self._rows[block_size]

    def _find(self, row: int, block_size: int) -> tuple[int, int, int]:
        """The shard of a row, the row's place in it, and the shard's rows from there on."""
        ends = self._ends(block_size)
        within = row % int(ends[-1])
        at = int(np.searchsorted(ends, within, side="right"))
        begin = int(ends[at - 1]) if at else 0
        return int(self._order[at]), within - begin, int(ends[at]) - within

    def _n_rows(self, k: int, block_size: int) -> int:
        """Rows of a shard."""
        shard = self.source.shards[k]
        if not self.fraction:
            n_train, n_tokens = shard.n_documents, shard.n_tokens
        else:
            train = self._train_mask(k)
            n_train = int(train.sum())
            n_tokens = int(np.diff(shard.encoded().offsets)[train].sum()) if self.joined else 0
        return max(1, n_tokens // block_size) if self.joined and n_train else n_train

    @cached_property
    def _cut(self) -> int | None:
        """The document from which on the text is held out, where that is its end."""
        if not self.fraction or not (self.source.data.val_split == "end" or shared(self.source.data)):
            return None
        left = (1 - self.fraction) * self.n_tokens
        for k, shard in enumerate(self.source.shards):
            if left < shard.n_tokens:
                return int(self._starts[k] + np.searchsorted(shard.encoded().offsets[1:], left, side="right"))
            left -= shard.n_tokens
        return int(self._starts[-1])

    def _held_places(self, k: int) -> np.ndarray:
        """The documents of a shard that are held out, in the text's order."""
        n = self.source.shards[k].n_documents
        if self._cut is not None:
            return np.arange(min(n, max(0, self._cut - int(self._starts[k]))), n)
        n_held = round(n * self.fraction)
        if n_held in (0, n):
            return np.arange(n_held)
        return np.sort(np.argpartition(hashes(f"{self.source.data.split_seed} held out {k}", n), n_held)[:n_held])

    def _train_mask(self, k: int) -> np.ndarray:
        train = np.ones(self.source.shards[k].n_documents, dtype=bool)
        train[self._held_places(k)] = False
        if self._cut is not None:
            train[max(0, self._cut - shared(self.source.data) - int(self._starts[k])) :] = False
        return train

    def _of(self, encoded: Encoded, order: np.ndarray, n_train: int) -> DocumentCorpus:
        data = self.source.data
        return DocumentCorpus(ShardDocuments(encoded, self.source.tokenizer, data), encoded, order, n_train)

    def _corpus(self, k: int) -> DocumentCorpus:
        """The documents of a shard in the order of training; those of the last shards are kept."""
        if k not in self._corpora:
            encoded = self.source.shards[k].encoded()
            order = np.argsort(hashes(f"{self.seed} shard {k}", self.source.shards[k].n_documents), kind="stable")
            order = order[self._train_mask(k)[order]] if self.fraction else order
            while len(self._corpora) >= KEPT:
                del self._corpora[next(iter(self._corpora))]
            self._corpora[k] = self._of(encoded, order, len(order))
        return self._corpora[k]


def split(source: Shards, rng: Random, fraction: float) -> ShardedCorpus:
    """Shards in an order drawn with `rng`, some documents held out. Raises DataError if too few are left."""
    corpus = ShardedCorpus(source, rng.getrandbits(63), fraction)
    if corpus.n_rows(1) < 1 or (fraction and not corpus.n_held_out):
        raise DataError(
            f"{corpus.n_documents} documents are too few to hold out {fraction:.0%} of them; set --val-fraction 0, or "
            "name held-out tokens with --val-data"
        )
    return corpus
