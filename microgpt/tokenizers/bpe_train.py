"""Learning the merges of a BPE from documents; bpe_reference defines the result.

bpe is learnt by the `tokenizers` library, with ties to the smallest pair; bpe-vidya and bpe-words by the compiled
loop below, with ties to the pair that stands first in the corpus. Each round of it counts all pairs afresh, as the
definition does: on a megabyte that takes about a millisecond per round, and no structure can be out of date.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from microgpt.errors import DataError, UsageError
from microgpt.tokenizers.base import Size
from microgpt.tokenizers.byte_letters import LETTERS

Pair = tuple[int, int]

MAX_LENGTH = 128  # of a token, in characters or bytes: no merge makes a longer one
MAX_MERGES = 16_000  # where all pairs are counted in one table
END_MARK = "</w>"  # how the space at the end of a word is shown and sorted
BORDER = -1  # between two pieces

# Runs that would make one huge piece are cut; so is the text of a special token, that no merge makes it.
CUTS = re.compile(r"(\S{1024}|\s{1024})|(?<=<)(?=(?:bos|unk|user|assistant|system|end_turn)>)")


class Rule(NamedTuple):
    """How a kind of BPE learns."""

    minimum: int  # occurrences of a pair that is merged
    merges: int  # learnt unless told otherwise


RULES = {"bpe": Rule(2, 4096 - 257), "bpe-vidya": Rule(2, 500), "bpe-words": Rule(1, 1000)}


def train(
    kind: str, texts: Iterable[str], n_special: int, vocab_size: Size, merges: Size
) -> tuple[list[str], list[Pair]]:
    """The alphabet of a BPE and its merges; fewer than asked for if no pair is left. Raises DataError, UsageError."""
    pieces = (piece for text in texts for piece in CUTS.split(text) if piece)
    if kind == "bpe":
        alphabet = list(LETTERS.values())
        return alphabet, _learn_bytes(pieces, n_merges(kind, len(alphabet), n_special, vocab_size, merges))
    if kind == "bpe-words":
        counted = Counter(word + " " for piece in pieces for word in piece.split())
        corpus, occurs = list(counted), list(counted.values())
    else:
        corpus = list(pieces)
        occurs = [1] * len(corpus)
    alphabet, tokens = _characters(corpus, END_MARK if kind == "bpe-words" else " ")
    lengths = np.ones(len(alphabet) + n_merges(kind, len(alphabet), n_special, vocab_size, merges), np.int32)
    sizes = np.fromiter(map(len, corpus), np.int64) + 1  # the border after a piece goes with it
    weights = np.repeat(np.array(occurs, np.int64), sizes)[:-1]
    return alphabet, _compiled()(tokens, weights, lengths, len(alphabet), RULES[kind].minimum, MAX_LENGTH).tolist()


def n_merges(kind: str, n_alphabet: int, n_special: int, vocab_size: Size, merges: Size) -> int:
    """How many merges to learn. Raises UsageError."""
    if vocab_size is not None:
        merges = vocab_size - n_alphabet - n_special
        if merges < 0:
            least = n_alphabet + n_special
            raise UsageError(f"vocab_size: {vocab_size} has no room for the alphabet; expected at least {least}")
    wanted = RULES[kind].merges if merges is None else merges
    if wanted < 0:
        raise UsageError(f"merges: {wanted} is negative; expected 0 or more")
    if kind != "bpe" and wanted > MAX_MERGES:
        raise UsageError(f"merges: {wanted:,} are too many for {kind}; expected at most {MAX_MERGES:,}, or choose bpe")
    return wanted


def _learn_bytes(pieces: Iterator[str], merges: int) -> list[Pair]:
    """The merges of bytes within GPT-2's pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        min_frequency=RULES["bpe"].minimum,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_LENGTH,
        show_progress=False,
    )
    try:
        library.train_from_iterator(pieces, trainer)
    except UnicodeEncodeError as error:
        raise DataError(f"text with half a character (a lone surrogate): {error.reason}; leave it out") from None
    model = json.loads(library.to_str())["model"]
    return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


def _characters(corpus: list[str], space: str) -> tuple[list[str], np.ndarray]:
    """The sorted characters of the pieces, a space in the place of `space`, and the pieces as their int32 places."""
    if not corpus:
        raise DataError("no text to learn a vocabulary from; expected at least one character")
    try:
        # A border is written as U+FFFFFFFF, which no text has.
        points = np.frombuffer(b"\xff\xff\xff\xff".join(text.encode("utf-32-le") for text in corpus), np.uint32)
    except UnicodeEncodeError as error:
        raise DataError(f"text with half a character (a lone surrogate): {error.reason}; leave it out") from None
    characters = {chr(point) for point in np.unique(points).tolist() if point < 2**32 - 1}
    alphabet = sorted(characters, key=lambda char: space if char == " " else char)
    by_point = np.argsort([ord(char) for char in alphabet])
    known = np.sort([ord(char) for char in alphabet]).astype(np.uint32)
    return alphabet, np.append(by_point, BORDER)[np.searchsorted(known, points)].astype(np.int32)


@cache
def _compiled() -> Any:
    """`learn` as machine code."""
    from numba import njit

    return njit(cache=True)(learn)


def learn(
    tokens: np.ndarray, weights: np.ndarray, lengths: np.ndarray, n_alphabet: int, minimum: int, max_length: int
) -> np.ndarray:
    """The pairs merged, int32 (merges, 2), in the order of learning; see `bpe_reference.learn`.

    tokens: int32 (N,), pieces with a BORDER between them; weights: int64 (N,), the piece's at each of its tokens;
    lengths: int32 (n_alphabet + most merges,), the alphabet's filled in. All three are overwritten.
    """
    n_tokens = len(lengths)
    counts = np.zeros((n_tokens, n_tokens), np.int64)
    merges = np.empty((n_tokens - n_alphabet, 2), np.int32)
    n = len(tokens)
    for new in range(n_alphabet, n_tokens):
        for i in range(n - 1):
            if tokens[i] >= 0 and tokens[i + 1] >= 0:
                counts[tokens[i], tokens[i + 1]] += weights[i]
        most, left, right = minimum - 1, BORDER, BORDER
        for i in range(n - 1):
            a, b = tokens[i], tokens[i + 1]
            if a >= 0 and b >= 0 and counts[a, b] > most and lengths[a] + lengths[b] <= max_length:
                most, left, right = counts[a, b], a, b
        if left == BORDER:
            return merges[: new - n_alphabet]
        for i in range(n - 1):
            if tokens[i] >= 0 and tokens[i + 1] >= 0:
                counts[tokens[i], tokens[i + 1]] = 0
        merges[new - n_alphabet, 0], merges[new - n_alphabet, 1] = left, right
        lengths[new] = lengths[left] + lengths[right]
        read = write = 0
        while read < n:
            token, step = tokens[read], 1
            if token == left and read + 1 < n and tokens[read + 1] == right:
                token, step = new, 2
            tokens[write], weights[write] = token, weights[read]
            write += 1
            read += step
        n = write
    return merges
