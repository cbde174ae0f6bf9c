"""Attention of one head against NumPy, forward and backward."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.config import Model, Optim  # noqa: E402
from microgpt.engines.fused import attention  # noqa: E402
from microgpt.engines.ladder import engine  # noqa: E402
from microgpt.feed import pack  # noqa: E402
from microgpt.model import init_weights  # noqa: E402
from tests.engines.fused.arrays import DTYPES, EPS, pointer, random  # noqa: E402


@numba.njit
def _attend(q: Any, k: Any, val: Any, ld: int, y: Any, kept: Any, workspace: Any, size: int, past: int, T: int) -> None:
    p = pointer(workspace)
    top = pointer(kept)
    k_, v_ = pointer(k), pointer(val)
    attention.attention(pointer(q), ld, k_, v_, ld, pointer(y), top, top + ld, p, size, past, T, p)


@numba.njit
def _attend_back(dy: Any, heads: Any, ld: int, kept: Any, d: Any, workspace: Any, size: int, T: int) -> None:
    q, dq, p, top = pointer(heads), pointer(d), pointer(workspace), pointer(kept)
    part = size * ld
    attention.attention_back(
        pointer(dy), q, q + part, q + 2 * part, q + 3 * part, ld, top, top + ld, p, p + 8192, dq, dq + part,
        dq + 2 * part, size, T, p, part,
    )  # fmt: skip


def _weights(q: Any, k: Any, past: int) -> Any:
    """Softmax of causal scores (T, past + T)."""
    scores = q.T @ k / math.sqrt(len(q))
    scores[np.arange(k.shape[1]) > past + np.arange(q.shape[1])[:, None]] = -np.inf
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "past", "T"), [(1, 0, 1), (3, 0, 5), (4, 7, 2), (5, 3, 20), (16, 0, 33), (8, 50, 70), (2, 33, 81)]
)
def test_attention_is_softmax_of_scores(dtype: str, size: int, past: int, T: int) -> None:
    ld = 160
    q, k, value = (random(size, ld, dtype=dtype, seed=i) for i in range(3))
    y, workspace = np.zeros((size, ld), dtype), np.zeros(8192, dtype)
    _attend(q.ravel(), k.ravel(), value.ravel(), ld, y.ravel(), np.zeros(2 * ld, dtype), workspace, size, past, T)
    want = value[:, : past + T] @ _weights(q[:, :T], k[:, : past + T], past).T
    np.testing.assert_allclose(y[:, :T], want, atol=50 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "T"), [(1, 1), (3, 5), (4, 16), (5, 33), (16, 64), (6, 65), (7, 97), (16, 150)])
def test_attention_back_is_the_derivative(dtype: str, size: int, T: int) -> None:
    """By keys in twos of vectors and queries by blocks, on shapes at and beside the edges of both."""
    ld = 160
    heads, dy = (random(4 * size, ld, dtype=dtype, seed=4) * 2), random(size, ld, dtype=dtype, seed=5)
    q, k, value, y = heads.reshape(4, size, ld)
    kept, workspace = np.zeros(2 * ld, dtype), np.full(8192 * 3, np.nan, dtype)
    d = np.full((3, size, ld), np.nan, dtype)
    _attend(q.ravel(), k.ravel(), value.ravel(), ld, y.ravel(), kept, workspace, size, 0, T)
    _attend_back(dy.ravel(), heads.ravel(), ld, kept, d.ravel(), workspace, size, T)
    q, k, value, dy = (x[:, :T].astype(np.float64) for x in (q, k, value, dy))
    p = _weights(q, k, 0)
    dp = dy.T @ value
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) / math.sqrt(size)
    for got, want in zip(d, (k @ ds.T, q @ ds, dy @ p), strict=True):
        np.testing.assert_allclose(got[:, :T], want, atol=400 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_attention_of_huge_scores_is_that_of_the_largest(position: str, dtype: str) -> None:
    model = Model(vocab_size=7, block_size=40, n_layer=1, n_head=2, n_embd=8, init_std=0.3, position=position)
    given = init_weights(model, Random(1))
    given["layer0.attn_wq"] *= 1e11
    given["layer0.attn_wk"] *= 1e11
    feed = pack([[Random(i).randrange(7) for i in range(n)] for n in (7, 41)], rows_per_step=2)
    losses = []
    for name in ("fused", "manual"):
        e = engine(name)(model, Optim(), dtype=dtype)
        losses += [e.loss(e.load(given), feed), e.train(e.load(given), feed, np.zeros(1))[1]]
    np.testing.assert_allclose(losses, np.broadcast_to(losses[2], (4, 1)), rtol=1e-9 if dtype == "float64" else 1e-5)
