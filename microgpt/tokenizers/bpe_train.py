"""Learning BPE merges with ties going to the pair that stands first in the corpus, compiled.

Each round counts all pairs afresh, as the definition does. On a megabyte that takes about a millisecond a round,
and needs no structure that could be out of date.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BORDER = -1


@njit(cache=True)  # type: ignore[untyped-decorator]
def learn(
    tokens: np.ndarray, weights: np.ndarray, lengths: np.ndarray, n_alphabet: int, minimum: int, max_length: int
) -> np.ndarray:
    """The pairs merged, int32 (merges, 2), in the order of learning; see `reference.learn`.

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
