"""Operations on vectors, by lane and across lanes, against NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.engines.fused.simd import vectors as v  # noqa: E402
from tests.engines.fused.arrays import DTYPES, EPS, lanes_of, pointer, random  # noqa: E402


@numba.njit
def _elementwise(x: Any, y: Any) -> None:
    p, q = pointer(x), pointer(y)
    n, W = len(x), v.lanes(p)
    for i in range(0, n, W):
        a = v.load(p, i)
        magnitude = v.maximum(a, 0.0 - a) + 1e-3
        v.store(q, i, v.inverse(magnitude))
        v.store(q, n + i, v.sqrt(magnitude))
        v.store(q, 2 * n + i, v.inverse_root(magnitude))
        v.store(q, 3 * n + i, v.positive(a, 2.0 * a))
        v.store(q, 4 * n + i, v.first(3, a, -1.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise(dtype: str) -> None:
    W = lanes_of(dtype)
    x = np.concatenate([random(62 * W, dtype=dtype) * 8, np.linspace(-86, 86, 2 * W).astype(dtype)])
    y = np.zeros((5, len(x)), dtype)
    _elementwise(x, y.ravel())
    magnitude = np.abs(x) + x.dtype.type(1e-3)
    ulps = {"rtol": 3 * EPS[dtype]}
    np.testing.assert_allclose(y[0], 1 / magnitude, **ulps)
    np.testing.assert_allclose(y[1], np.sqrt(magnitude), **ulps)
    np.testing.assert_allclose(y[2], 1 / np.sqrt(magnitude), **ulps)
    np.testing.assert_array_equal(y[3], np.maximum(2 * x, 0))
    keep = np.arange(len(x)) % W < 3
    np.testing.assert_array_equal(y[4], np.where(keep, x, -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_nan(dtype: str) -> None:
    x = np.full(lanes_of(dtype), math.nan, dtype)
    y = np.zeros((5, len(x)), dtype)
    _elementwise(x, y.ravel())
    assert np.isnan(y[[0, 1, 2, 3]]).all()


@numba.njit
def _across(x: Any, y: Any) -> Any:
    a, q = v.load(pointer(x), 0), pointer(y)
    size, at = 1, 0
    while size <= v.lanes(q):
        v.store(q, at, v.group_sum(a, size))
        size, at = 2 * size, at + v.lanes(q)
    return v.total(a), v.largest(a), v.lane(a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_across_lanes(dtype: str) -> None:
    W = lanes_of(dtype)
    x = random(W, dtype=dtype)
    y = np.zeros((W.bit_length(), W), dtype)
    whole, largest, lane = _across(x, y.ravel())
    np.testing.assert_allclose(whole, x.sum(), rtol=20 * EPS[dtype], atol=20 * EPS[dtype])
    assert (largest, lane) == (x.max(), x[0])
    for k in range(W.bit_length()):
        want = np.repeat(x.reshape(-1, 2**k).sum(axis=1), 2**k)
        np.testing.assert_allclose(y[k], want, rtol=20 * EPS[dtype], atol=20 * EPS[dtype])


@numba.njit
def _widen(x: Any, y: Any) -> None:
    p, q = pointer(x), pointer(y)
    for i in range(0, len(y), v.lanes(q)):
        v.store(q, i, v.load_as(q, p, i))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_read_as_wider_ones(dtype: str) -> None:
    x = random(5 * lanes_of(dtype), dtype=dtype)
    y = np.zeros(len(x))
    _widen(x, y)
    np.testing.assert_array_equal(y, x.astype(np.float64))
