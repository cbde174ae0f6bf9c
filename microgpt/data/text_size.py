"""The size of a text, and the length of a model's code for it: figures by which tokenizers can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from microgpt.tokenizers import Tokenizer

BITS_PER_UNKNOWN_BYTE = 8


class TextSize(NamedTuple):
    """The size of a text, and of the part of it that the tokenizer does not know."""

    bytes: int  # in UTF-8, of the text that the tokens stand for
    characters: int
    unknown_bytes: int  # of characters or words that the vocabulary lacks
    unknown_tokens: int  # <unk> that stand for them; 0 where they were left out, and are no part of `bytes`

    @property
    def left_out(self) -> bool:
        """Whether the unknown text was left out, by a tokenizer without <unk>."""
        return bool(self.unknown_bytes) and not self.unknown_tokens

    @property
    def unknown_share(self) -> float:
        """The share of the text's bytes that the tokenizer does not know."""
        return self.unknown_bytes / max(1, self.bytes + self.left_out * self.unknown_bytes)

    def bits(self, nats: float) -> float:
        """The length of a code for the text in bits, where its tokens have a probability of exp(-nats).

        An arithmetic coder with the model writes the tokens in nats / ln 2 bits. <unk> does not say which text it
        stands for, so that text follows it: 8 bits per byte of UTF-8, and 8 for a byte that UTF-8 never uses, which
        ends it.
        """
        spelled = 0 if self.left_out else self.unknown_bytes + self.unknown_tokens
        return nats / math.log(2) + BITS_PER_UNKNOWN_BYTE * spelled

    def bits_per_byte(self, nats: float) -> float:
        """The length of that code per byte of the text: an upper bound of the bits that the text needs."""
        return self.bits(nats) / max(1, self.bytes)

    def nats_per_character(self, nats: float) -> float:
        """The length of that code in nats per character of the text."""
        return self.bits(nats) * math.log(2) / max(1, self.characters)


def total(sizes: np.ndarray) -> TextSize:
    """The size of several texts together; `sizes` is int64 (texts, 4)."""
    return TextSize(*sizes.sum(axis=0).tolist())


def measure(
    tokenizer: Tokenizer, texts: Sequence[str], known: Sequence[str], tokens: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """The TextSize of each text, int64 (texts, 4).

    `known` are the texts without what was left out, the same list where nothing was; `tokens` are theirs, of which
    each has `lengths`.
    """
    found = np.zeros((len(texts), len(TextSize._fields)), dtype=np.int64)
    kept = list(map(tokenizer.normalize, known))
    found[:, 1] = list(map(len, kept))
    found[:, 0] = found[:, 1] if all(map(str.isascii, kept)) else [len(text.encode()) for text in kept]
    strange: Sequence[int] = []
    if known is not texts:
        strange = [i for i, (text, left) in enumerate(zip(texts, known, strict=True)) if text != left]
    elif (unk := tokenizer.special.get("unk")) is not None:
        strange = np.unique(np.searchsorted(np.cumsum(lengths), np.flatnonzero(tokens == unk), side="right")).tolist()
    for i in strange:
        parts = tokenizer.unknown_parts(texts[i])
        found[i, 2:] = len("".join(parts).encode()), len(parts) if known is texts else 0
    return found
