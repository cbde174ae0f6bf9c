"""A batch of documents → its tokens, with BOS around each document."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from microgpt.config import Data
from microgpt.data.text_size import measure
from microgpt.errors import DataError
from microgpt.tokenizers import Tokenizer


class Tokens(NamedTuple):
    """The tokens of a batch."""

    tokens: np.ndarray  # int32 (N,), each document as BOS + tokens (+ BOS)
    lengths: np.ndarray  # int64 (documents,), tokens of each
    sizes: np.ndarray  # int64 (documents, 4), the TextSize of each
    left_out: int  # characters that the tokenizer does not know and that were left out


def tokenize(batch: list[str], tokenizer: Tokenizer, data: Data, source: str) -> Tokens:
    """The tokens of some documents of `source`. Raises DataError with the document of an unknown character."""
    known, left_out = _known(batch, tokenizer, data)
    flat, lengths = _encode(known, tokenizer, source)
    around = 1 + (data.trailing_bos and data.packing == "rows")
    tokens = np.full(len(flat) + around * len(batch), tokenizer.bos, dtype=np.int32)
    tokens[np.arange(len(flat)) + np.repeat(np.arange(len(batch)) * around + 1, lengths)] = flat
    lengths = np.asarray(lengths, dtype=np.int64) + around
    return Tokens(tokens, lengths, measure(tokenizer, batch, known, tokens, lengths), left_out)


def _known(batch: list[str], tokenizer: Tokenizer, data: Data) -> tuple[list[str], int]:
    """The texts without characters that the tokenizer does not know, where `unk` is set and it has no <unk>."""
    if not data.unk or "unk" in tokenizer.special:
        return batch, 0
    known = [tokenizer.decode(tokenizer.encode(text, unk=True)) for text in batch]
    return known, sum(len(part) for text in batch for part in tokenizer.unknown_parts(text))


def _encode(batch: list[str], tokenizer: Tokenizer, source: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return tokenizer.encode_batch(batch)
    except DataError as error:
        for text in batch:
            try:
                tokenizer.encode(text)
            except DataError as one:
                raise DataError(f"{source}: in the document {text[:40]!r}: {one}", one.code) from None
        raise DataError(f"{source}: {error}", error.code) from None
