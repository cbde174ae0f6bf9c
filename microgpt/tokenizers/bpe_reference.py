"""Byte-pair encoding as defined (Sennrich, Haddow, Birch 2016): slow, and the reference for bpe and bpe_train.

A corpus is a list of pieces, each a list of tokens with a weight (how often the piece occurs). Learning counts
the pairs of neighbours, makes the most frequent pair a new token, replaces it everywhere, and begins again.
Encoding replays the merges in the order of learning. No merge crosses the border of a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Pair = tuple[int, int]


def count(pieces: Sequence[list[int]], weights: Sequence[int]) -> dict[Pair, int]:
    """How often each pair of neighbours occurs, in the order in which pairs are first met."""
    counts: dict[Pair, int] = {}
    for piece, weight in zip(pieces, weights, strict=True):
        for pair in pairwise(piece):
            counts[pair] = counts.get(pair, 0) + weight
    return counts


def merge(piece: list[int], pair: Pair, new: int) -> list[int]:
    """The piece with each occurrence of the pair, from the left, replaced by the new token."""
    merged = []
    at = 0
    while at < len(piece):
        if tuple(piece[at : at + 2]) == pair:
            merged.append(new)
            at += 2
        else:
            merged.append(piece[at])
            at += 1
    return merged


def learn(
    pieces: Sequence[list[int]],
    weights: Sequence[int],
    lengths: Sequence[int],
    merges: int,
    *,
    minimum: int,
    ties: Literal["first", "smallest"],
    max_length: int,
) -> list[Pair]:
    """At most `merges` pairs in the order of learning; the i-th becomes token len(lengths) + i.

    lengths are those of the alphabet's tokens: no merge makes a token longer than max_length. Pairs rarer than
    `minimum` are not learnt. Of equally frequent pairs the one met first in the corpus wins, or the smallest.
    """
    learnt: list[Pair] = []
    pieces, lengths = list(pieces), list(lengths)
    for _ in range(merges):
        counts = count(pieces, weights)
        allowed = [pair for pair in counts if lengths[pair[0]] + lengths[pair[1]] <= max_length]
        if ties == "smallest":
            allowed.sort()
        best = max(allowed, key=counts.__getitem__, default=None)
        if best is None or counts[best] < minimum:
            break
        pieces = [merge(piece, best, len(lengths)) for piece in pieces]
        lengths.append(lengths[best[0]] + lengths[best[1]])
        learnt.append(best)
    return learnt


def encode(piece: list[int], merges: Sequence[Pair], n_alphabet: int) -> list[int]:
    """The tokens of a piece given as tokens of the alphabet: all merges, in the order of learning."""
    for i, pair in enumerate(merges):
        piece = merge(piece, pair, n_alphabet + i)
    return piece
