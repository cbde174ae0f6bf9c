"""Products and transposes of whole matrices, tile by tile; filling, copying and adding vectors in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

from microgpt.engines.fused import layout
from microgpt.engines.fused.jit.functions import Function, inline, jit
from microgpt.engines.fused.layout import P
from microgpt.engines.fused.plan import PAIR
from microgpt.engines.fused.simd.int8 import panel_rows
from microgpt.engines.fused.simd.intrinsics import BYTES, noinline
from microgpt.engines.fused.simd.tiles import ROWS, WIDE, tile, transpose_block
from microgpt.engines.fused.simd.vectors import lanes, load, numbers, splat, store

stride = inline(layout.stride)
place = inline(layout.place)


class Prefetch(NamedTuple):
    """Memory that a product prefetches, since it is read next: the same rows of four matrices."""

    one: P
    two: P
    three: P
    four: P
    rows: int
    run: int  # numbers per row
    stride: int  # from one row to the next


@jit
def quarters(x: P, rows: int, run: int, stride: int) -> Prefetch:
    """Prefetch a matrix x as four parts of its rows; up to three rows are left out."""
    rows //= 4
    part = rows * stride
    return Prefetch(x, x + part, x + 2 * part, x + 3 * part, rows, run, stride)


@jit
def spot(prefetch: Prefetch, tile: int, iterations: int, step: int, run: int) -> Any:
    """Where tile number `tile` begins to prefetch, and its iterations until the end of that row.

    A tile has so many `iterations`, each advances by `step` numbers, `run` of them make a row; the four matrices are
    given to the tiles in turn.
    """
    position = tile // 4 * iterations
    within = position % run
    at = position // run % prefetch.rows * prefetch.stride + within * step
    if tile % 4 == 0:
        return prefetch.one + at, run - within
    if tile % 4 == 1:
        return prefetch.two + at, run - within
    if tile % 4 == 2:
        return prefetch.three + at, run - within
    return prefetch.four + at, run - within


def _product(columns: bool) -> Function:
    """A product whose left operand is stored by rows, or by `columns`."""

    def product(a: P, lda: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool) -> None:
        noinline()
        down, along = (1, lda) if columns else (lda, 1)
        W, wide = lanes(c), PAIR * lanes(c)
        full = M - M % ROWS
        next_w, next_c = wide if ldw else wide * panel_rows(w, K), wide if ldc else wide * M
        j = 0
        if M == 1:  # one row, as in decoding: many independent sums hide the latency of an addition
            while j + WIDE * W <= N:
                tile(a, down, along, w, ldw if ldw else wide, next_w, c, wide, next_c, 1, K, WIDE, adding, None)
                j, w, c = j + WIDE * W, w + WIDE // PAIR * next_w, c + WIDE // PAIR * next_c
        while j < N:
            width = min(wide, N - j)
            lw, lc = ldw if ldw else width, ldc if ldc else width
            if width == wide:
                for i in range(0, full, ROWS):
                    tile(a + i * down, down, along, w, lw, wide, c + i * lc, lc, wide, ROWS, K, PAIR, adding, None)
                tile(
                    a + full * down, down, along, w, lw, wide, c + full * lc, lc, wide, M - full, K, PAIR, adding, None
                )
            else:
                for i in range(0, full, ROWS):
                    tile(a + i * down, down, along, w, lw, wide, c + i * lc, lc, wide, ROWS, K, 1, adding, None)
                tile(a + full * down, down, along, w, lw, wide, c + full * lc, lc, wide, M - full, K, 1, adding, None)
            j, w, c = j + wide, w + next_w, c + next_c

    return jit(product)


# C (M, N) = A (M, K) W (K, N), or added to C, in tiles; N whole vectors. A is (M, lda), or (K, lda) by columns. ld*:
# from one row to the next, or 0 where W or C is in panels: blocks of two vectors' columns (the last may have one) that
# are stored one after the other, so that a column of tiles reads contiguous memory.
multiply = _product(columns=False)
multiply_columns = _product(columns=True)


@jit
def multiply_prefetching(
    a: P, lda: int, w: P, ldw: int, c: P, ldc: int, M: int, K: int, N: int, adding: bool, far: bool, prefetch: Prefetch
) -> None:
    """`multiply` whose last tiles prefetch: a cache line every other iteration, or every one if there are few tiles.

    C is stored by rows. Lines that the first tiles prefetched would be evicted by those of later tiles. Where W itself
    is `far`, in panels, the last tiles of each panel prefetch the next one.
    """
    noinline()
    W, wide = lanes(c), PAIR * lanes(c)
    height, panels = M // ROWS, N // wide
    line, next_w = 64 * W // BYTES, wide if ldw else wide * K
    own = min(height, 2 * wide // line) if far else 0  # tiles that prefetch the next panel
    step = line // 2 if height * panels * K * line >= 8 * prefetch.rows * prefetch.run else line
    run = (prefetch.run + step - 1) // step
    tiles, skip = (4 * prefetch.rows * run + K - 1) // K, prefetch.stride - (run - 1) * step
    plain, prefetching = max(0, (height - own) * panels + own - tiles), 0
    for j in range(panels):
        panel, lw = w + j * next_w, ldw if ldw else wide
        for i in range(height):
            rows, sums = a + i * ROWS * lda, c + (i * ROWS * ldc + j * wide)
            onward = i >= height - own and j + 1 < panels
            if plain > 0 and not onward:
                plain -= 1
                tile(rows, lda, 1, panel, lw, wide, sums, ldc, wide, ROWS, K, PAIR, adding, None)
            else:
                if onward:
                    at, left = numbers(panel, prefetch.one) + (next_w + (i + own - height) * K * (line // 2)), K
                    route = at, line // 2, left, left, line // 2
                else:
                    at, left = spot(prefetch, prefetching, K, step, run)
                    prefetching += 1
                    route = at, step, left, run, skip
                tile(rows, lda, 1, panel, lw, wide, sums, ldc, wide, ROWS, K, PAIR, adding, route)
    full, whole = height * ROWS, panels * wide
    if full < M:
        multiply(a + full * lda, lda, w, ldw, c + full * ldc, ldc, M - full, K, whole, adding)
    if whole < N:
        multiply(a, lda, w + panels * next_w, ldw, c + whole, ldc, M, K, N - whole, adding)


@jit
def transpose_rows(w: P, y: P, M: int, N: int, i: int, count: int) -> None:
    """y (N, count) = the transpose of rows i .. i + count of w (M, N), both in panels; whole vectors of both."""
    noinline()
    wide = PAIR * lanes(w)
    for k in range(0, count, wide):
        height = min(wide, count - k)
        for j in range(0, N, wide):
            width = min(wide, N - j)
            transpose(w + (j * M + (i + k) * width), width, y + (k * N + j * height), height, height, width)


@jit
def transpose_panels(x: P, ldx: int, y: P, M: int, N: int) -> None:
    """y (N, M) = x^T, in panels; N whole vectors, x is read up to the next whole vector of M."""
    noinline()
    W, wide = lanes(x), PAIR * lanes(x)
    for i in range(0, M, wide):
        width = wide if M - i > W else W
        transpose(x + i * ldx, ldx, y + i * N, width, width, N)


@jit
def transpose(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """y (N, M) = x^T. N whole vectors; x is read, and y's rows are written, up to the next whole vector of M."""
    noinline()
    for i in range(0, M, lanes(x)):
        for j in range(0, N, lanes(x)):
            transpose_block(x + (i * ldx + j), ldx, y + (j * ldy + i), ldy, lanes(x))


@jit
def transpose_back(x: P, ldx: int, y: P, ldy: int, M: int, N: int) -> None:
    """y (M, N) = x^T. N whole vectors; x is read up to the next whole vector of M, y holds M rows."""
    noinline()
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
