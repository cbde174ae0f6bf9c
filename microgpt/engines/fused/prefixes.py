"""Prompts whose keys and values are kept, so that what another prompt begins with is not computed again.

A position's keys and values depend on the tokens up to it alone, and are the same bits in every prompt of several
tokens. Those of tokens that were drawn one by one are not: their sums have another order. So the next turn of a chat
computes the last answer again, and takes the turns before it from here.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

MIN_PREFIX = 16  # tokens that are worth keeping
MAX_PREFIXES = 256  # which are all compared with a new prompt

T = TypeVar("T")


class Prefixes(Generic[T]):
    """Up to `n` prompts of up to `length` tokens with their caches; the least recently used is dropped for another."""

    def __init__(self, n: int, length: int) -> None:
        n = min(n, MAX_PREFIXES)
        self.tokens = np.full((n, length + 1), -1, np.int32)  # -1 behind a prompt's end
        self.used = np.zeros(n, np.int64)  # when; 0: a free row
        self.caches: dict[int, T] = {}
        self.clock = 0

    def longest(self, prompt: np.ndarray) -> tuple[int, T | None]:
        """How many tokens of the prompt are kept, and the cache that begins with them; 0 and None for too few."""
        if not self.caches or len(prompt) < MIN_PREFIX:
            return 0, None
        alike = self._alike(prompt)
        row = int(alike.argmax())
        if alike[row] < MIN_PREFIX:
            return 0, None
        self._touch(row)
        return int(alike[row]), self.caches[row]

    def keep(self, prompt: np.ndarray, cache: T) -> T | None:
        """Keep a prompt in the place of one that it begins with, or the least recently used; returns a free cache."""
        if not len(self.used):
            return cache
        alike, lengths = self._alike(prompt), (self.tokens >= 0).sum(axis=1)
        row = int(alike.argmax())
        if alike[row] == len(prompt):
            self._touch(row)
            return cache
        covered = np.flatnonzero(alike == lengths)  # rows that it begins with, and free ones
        row = int(covered[lengths[covered].argmax()] if len(covered) else self.used.argmin())
        dropped = self.caches.pop(row, None)
        self.tokens[row], self.tokens[row, : len(prompt)], self.caches[row] = -1, prompt, cache
        self._touch(row)
        return dropped

    def _touch(self, row: int) -> None:
        self.clock += 1
        self.used[row] = self.clock

    def _alike(self, prompt: np.ndarray) -> np.ndarray:
        """How many tokens each row and the prompt begin with alike."""
        ended = np.append(prompt, -2).astype(np.int32)
        return (self.tokens[:, : len(ended)] != ended).argmax(axis=1)
