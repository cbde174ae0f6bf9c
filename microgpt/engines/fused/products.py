"""Products and transposes of whole matrices, tile by tile, and the small change of vectors in memory."""

from __future__ import annotations

from microgpt.engines.fused.memory import P
from microgpt.engines.fused.tiles import PAIR, ROWS, WIDE, tile, transpose_block
from microgpt.engines.fused.vectors import inline, jit, lanes, load, once, plain, splat, store


@jit
def product(a: P, down: int, along: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool) -> None:
    """C (M, N) = A (M, K) W (K, N), or added to C, in tiles; see `tile`. N whole vectors."""
    once()
    wide = PAIR * lanes(c)
    full = M - M % ROWS
    j = 0
    if M == 1:  # one row, as in decoding: many sums at once hide how long one takes
        while j + WIDE * lanes(c) <= N:
            tile(a, down, along, w + j, ldw, c + j, ldc, 1, K, WIDE, adding)
            j += WIDE * lanes(c)
    while j < N:
        if j + wide <= N:
            for i in range(0, full, ROWS):
                tile(a + i * down, down, along, w + j, ldw, c + (i * ldc + j), ldc, ROWS, K, PAIR, adding)
            tile(a + full * down, down, along, w + j, ldw, c + (full * ldc + j), ldc, M - full, K, PAIR, adding)
            j += wide
        else:
            for i in range(0, full, ROWS):
                tile(a + i * down, down, along, w + j, ldw, c + (i * ldc + j), ldc, ROWS, K, 1, adding)
            tile(a + full * down, down, along, w + j, ldw, c + (full * ldc + j), ldc, M - full, K, 1, adding)
            j += lanes(c)


@inline
def multiply(a: P, lda: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool) -> None:
    """C = A W, or added to C; A is (M, lda)."""
    product(a, lda, plain(1), w, ldw, c, ldc, M, K, N, plain(adding))


@inline
def multiply_columns(a: P, lda: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool) -> None:
    """C = A W, or added to C; A's transpose (K, lda) is what lies in memory."""
    product(a, plain(1), lda, w, ldw, c, ldc, M, K, N, plain(adding))


@jit
def transpose(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """y (N, M) = x^T. N whole vectors; x is read, and y's rows are written, up to the next whole vector of M."""
    once()
    for i in range(0, M, lanes(x)):
        for j in range(0, N, lanes(x)):
            transpose_block(x + (i * ldx + j), ldx, y + (j * ldy + i), ldy, lanes(x))


@jit
def transpose_back(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """y (M, N) = x^T. N whole vectors; x is read up to the next whole vector of M, y holds M rows."""
    once()
    for i in range(0, M, lanes(x)):
        for j in range(0, N, lanes(x)):
            transpose_block(x + (j * ldx + i), ldx, y + (i * ldy + j), ldy, min(M - i, lanes(x)))


@jit
def zero(x: P, n: int) -> None:
    """x[:n] = 0, up to the next whole vector."""
    for i in range(0, n, lanes(x)):
        store(x, i, splat(x, 0.0))


@jit
def copy(x: P, y: P, n: int) -> None:
    """y[:n] = x[:n]."""
    for i in range(0, n, lanes(x)):
        store(y, i, load(x, i))


@jit
def add(x: P, y: P, n: int) -> None:
    """y[:n] += x[:n]."""
    for i in range(0, n, lanes(x)):
        store(y, i, load(y, i) + load(x, i))
