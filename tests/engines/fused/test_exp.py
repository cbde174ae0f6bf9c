"""Exponentials against NumPy's in higher precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.engines.fused.simd import exp  # noqa: E402
from microgpt.engines.fused.simd import vectors as v  # noqa: E402
from tests.engines.fused.arrays import DTYPES, EPS, lanes_of, pointer, random  # noqa: E402


@numba.njit
def _exponentials(x: Any, y: Any) -> None:
    p, q, n = pointer(x), pointer(y), len(x)
    for i in range(0, n, v.lanes(p)):
        v.store(q, i, exp.exp(v.load(p, i)))
        v.store(q, n + i, exp.exp2(v.load(p, i)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponentials(dtype: str) -> None:
    W = lanes_of(dtype)
    x = np.concatenate([random(62 * W, dtype=dtype) * 8, np.linspace(-86, 86, 2 * W).astype(dtype)])
    y = np.zeros((2, len(x)), dtype)
    _exponentials(x, y.ravel())
    for ours, numpys in zip(y, (np.exp, np.exp2), strict=True):
        np.testing.assert_allclose(ours, numpys(x.astype("longdouble")).astype(dtype), rtol=3 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_of_nan_is_nan(dtype: str) -> None:
    x = np.full(lanes_of(dtype), math.nan, dtype)
    y = np.zeros((2, len(x)), dtype)
    _exponentials(x, y.ravel())
    assert np.isnan(y).all()
