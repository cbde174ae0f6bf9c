"""Products and transposes of matrices against NumPy, on odd shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.engines.fused.plan import PAIR  # noqa: E402
from microgpt.engines.fused.simd import matmul  # noqa: E402
from microgpt.engines.fused.simd.tiles import ROWS, WIDE  # noqa: E402
from tests.engines.fused.arrays import DTYPES, EPS, in_panels, lanes_of, pointer, random  # noqa: E402


@numba.njit
def _products(
    columns: bool, a: Any, lda: int, w: Any, ldw: int, c: Any, ldc: int, M: int, K: int, N: int, add: bool
) -> None:
    if columns:
        matmul.multiply_columns(pointer(a), lda, pointer(w), ldw, pointer(c), ldc, M, K, N, add)
    else:
        matmul.multiply(pointer(a), lda, pointer(w), ldw, pointer(c), ldc, M, K, N, add)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("adding", [False, True])
def test_products_of_every_number_of_rows(dtype: str, columns: bool, adding: bool) -> None:
    W = lanes_of(dtype)
    for M in range(1, 2 * ROWS + 2):
        for K, vectors in ((1, 1), (3, PAIR), (17, 2 * PAIR + 1), (5, WIDE + 1)):
            N = vectors * W
            a, w, c = random(M, K + 2, dtype=dtype), random(K, N + W, dtype=dtype), random(M + 1, N + 3, dtype=dtype)
            want = c.astype("float64")
            want[:M, :N] = want[:M, :N] * adding + a[:, :K].astype("float64") @ w[:, :N]
            given = np.ascontiguousarray(a[:, :K].T) if columns else a
            panels = in_panels(np.ascontiguousarray(c[:M, :N]))
            lda = M if columns else K + 2
            _products(columns, given.ravel(), lda, w.ravel(), N + W, c.ravel(), N + 3, M, K, N, adding)
            np.testing.assert_allclose(c, want, rtol=0, atol=40 * EPS[dtype])
            _products(columns, given.ravel(), lda, in_panels(w[:, :N]), 0, panels, 0, M, K, N, adding)
            np.testing.assert_array_equal(panels, in_panels(c[:M, :N]))  # the same sums, elsewhere in memory


@numba.njit
def _prefetching(
    a: Any, lda: int, w: Any, ldw: int, c: Any, M: int, K: int, N: int, x: Any, rows: int, run: int, stride: int
) -> None:
    p = pointer(x)
    prefetch = matmul.Prefetch(p, p, p, p, rows, run, stride)
    far = ldw == 0
    matmul.multiply_prefetching(pointer(a), lda, pointer(w), ldw, pointer(c), N, M, K, N, True, far, prefetch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_is_the_same_whatever_it_prefetches(dtype: str) -> None:
    """Nothing, rows shorter than a line, more than its tiles have iterations for, or addresses outside memory."""
    N = (2 * PAIR + 1) * lanes_of(dtype)
    for M, K in ((1, 3), (2 * ROWS, 1), (3 * ROWS + 1, 40)):
        a, w, c = random(M, K + 2, dtype=dtype), random(K, N, dtype=dtype), random(M, N, dtype=dtype)
        want = c.copy()
        _products(False, a.ravel(), K + 2, w.ravel(), N, want.ravel(), N, M, K, N, True)
        for rows, run, stride in ((0, 0, 0), (3, 5, 7), (100, 300, 1 << 40)):
            for right, ldw in ((w.ravel(), N), (in_panels(w), 0)):  # of panels each brings the next one too
                got = c.copy()
                _prefetching(a.ravel(), K + 2, right, ldw, got.ravel(), M, K, N, a.ravel(), rows, run, stride)
                np.testing.assert_array_equal(got, want)


@numba.njit
def _route(tile: int, iterations: int, rows: int, run: int, far: int, step: int, x: Any) -> Any:
    prefetch = matmul.Prefetch(pointer(x), pointer(x), pointer(x), pointer(x), rows, run, far)
    p, left = matmul.spot(prefetch, tile, iterations, step, (run + step - 1) // step)
    return p[0], left


def test_prefetching_goes_row_by_row() -> None:
    x = np.arange(2000.0)
    for rows, run, far, step, iterations in ((3, 64, 100, 8, 5), (2, 30, 31, 16, 7)):
        length = (run + step - 1) // step
        for tile in range(4 * rows * length // iterations):
            at, left = _route(tile, iterations, rows, run, far, step, x)
            row, within = divmod(tile // 4 * iterations, length)
            assert (at, left) == (row * far + within * step, length - within)


@numba.njit
def _transposed(x: Any, y: Any, M: int, N: int, i: int, count: int) -> None:
    matmul.transpose_rows(pointer(x), pointer(y), M, N, i, count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_are_transposed(dtype: str) -> None:
    W = lanes_of(dtype)
    for M, N in ((2 * W, W), (7 * W, 3 * W), (4 * W, 6 * W)):
        x = random(M, N, dtype=dtype)
        for i in range(0, M, 2 * W):
            count = min(3 * W, M - i)
            transposed = np.zeros(N * count + W * W, dtype)
            _transposed(in_panels(x), transposed, M, N, i, count)
            np.testing.assert_array_equal(transposed[: N * count], in_panels(np.ascontiguousarray(x[i : i + count].T)))


@numba.njit
def _transposes(x: Any, ldx: int, y: Any, ldy: int, M: int, N: int, back: bool) -> None:
    if back:
        matmul.transpose_back(pointer(x), ldx, pointer(y), ldy, M, N)
    else:
        matmul.transpose(pointer(x), ldx, pointer(y), ldy, M, N)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposes_there_and_back(dtype: str) -> None:
    W = lanes_of(dtype)
    for M in (1, W - 1, W, 2 * W + 3):
        N, tall = 3 * W, -(-M // W) * W
        x = random(tall, N, dtype=dtype)
        y, z = np.zeros((N, tall), dtype), np.full((tall, N + 1), 7, dtype)
        _transposes(x.ravel(), N, y.ravel(), tall, M, N, False)
        np.testing.assert_array_equal(y, x.T)
        _transposes(y.ravel(), tall, z.ravel(), N + 1, M, N, True)
        np.testing.assert_array_equal(z[:M, :N], x[:M])
        assert (z[M:] == 7).all()
        assert (z[:, N] == 7).all()
