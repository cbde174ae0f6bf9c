"""The fused rung's own vocabulary: vectors and tiles against NumPy, on odd shapes and on a narrower machine.

Longer than 350 lines, because its parts share the cases, the shapes and the compiled kernels.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.config import Model, Optim  # noqa: E402
from microgpt.engines.fused import activations, adam, attention  # noqa: E402
from microgpt.engines.fused.layout import PAIR  # noqa: E402
from microgpt.engines.fused.simd import bfloat16, exp, intrinsics, matmul  # noqa: E402
from microgpt.engines.fused.simd import vectors as v  # noqa: E402
from microgpt.engines.fused.simd.tiles import ROWS, WIDE  # noqa: E402
from microgpt.engines.ladder import engine  # noqa: E402
from microgpt.feed import pack  # noqa: E402
from microgpt.model import init_weights  # noqa: E402
from microgpt.runs import tensors  # noqa: E402

DTYPES = ["float32", "float64"]
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}


def random(*shape: int, dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@numba.njit
def _products(
    columns: bool, a: Any, lda: int, w: Any, ldw: int, c: Any, ldc: int, M: int, K: int, N: int, add: bool
) -> None:
    if columns:
        matmul.multiply_columns(v.pointer(a), lda, v.pointer(w), ldw, v.pointer(c), ldc, M, K, N, add)
    else:
        matmul.multiply(v.pointer(a), lda, v.pointer(w), ldw, v.pointer(c), ldc, M, K, N, add)


def in_panels(x: np.ndarray) -> np.ndarray:
    """x as its panels lie in memory."""
    wide = PAIR * intrinsics.lanes_of(str(x.dtype))
    return np.concatenate([x[:, j : j + wide].ravel() for j in range(0, x.shape[1], wide)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("adding", [False, True])
def test_products_of_every_number_of_rows(dtype: str, columns: bool, adding: bool) -> None:
    W = intrinsics.lanes_of(dtype)
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
def _bringing(
    a: Any, lda: int, w: Any, ldw: int, c: Any, M: int, K: int, N: int, x: Any, rows: int, run: int, apart: int
) -> None:
    p = v.pointer(x)
    ahead = matmul.Coming(p, p, p, p, rows, run, apart)
    far = ldw == 0
    matmul.multiply_bringing(v.pointer(a), lda, v.pointer(w), ldw, v.pointer(c), N, M, K, N, True, far, ahead)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_is_the_same_whatever_it_brings_nearer(dtype: str) -> None:
    """Nothing, rows shorter than a line, more than its tiles have turns for, or what lies outside of all memory."""
    N = (2 * PAIR + 1) * intrinsics.lanes_of(dtype)
    for M, K in ((1, 3), (2 * ROWS, 1), (3 * ROWS + 1, 40)):
        a, w, c = random(M, K + 2, dtype=dtype), random(K, N, dtype=dtype), random(M, N, dtype=dtype)
        want = c.copy()
        _products(False, a.ravel(), K + 2, w.ravel(), N, want.ravel(), N, M, K, N, True)
        for rows, run, apart in ((0, 0, 0), (3, 5, 7), (100, 300, 1 << 40)):
            for right, ldw in ((w.ravel(), N), (in_panels(w), 0)):  # of panels each brings the next one too
                got = c.copy()
                _bringing(a.ravel(), K + 2, right, ldw, got.ravel(), M, K, N, a.ravel(), rows, run, apart)
                np.testing.assert_array_equal(got, want)


@numba.njit
def _route(tile: int, turns: int, rows: int, run: int, far: int, step: int, x: Any) -> Any:
    ahead = matmul.Coming(v.pointer(x), v.pointer(x), v.pointer(x), v.pointer(x), rows, run, far)
    p, left = matmul.spot(ahead, tile, turns, step, (run + step - 1) // step)
    return p[0], left


def test_what_comes_nearer_comes_row_by_row() -> None:
    x = np.arange(2000.0)
    for rows, run, far, step, turns in ((3, 64, 100, 8, 5), (2, 30, 31, 16, 7)):
        length = (run + step - 1) // step
        for tile in range(4 * rows * length // turns):
            at, left = _route(tile, turns, rows, run, far, step, x)
            row, within = divmod(tile // 4 * turns, length)
            assert (at, left) == (row * far + within * step, length - within)


@numba.njit
def _turned(x: Any, y: Any, M: int, N: int, i: int, count: int) -> None:
    matmul.turn_rows(v.pointer(x), v.pointer(y), M, N, i, count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_are_turned(dtype: str) -> None:
    W = intrinsics.lanes_of(dtype)
    for M, N in ((2 * W, W), (7 * W, 3 * W), (4 * W, 6 * W)):
        x = random(M, N, dtype=dtype)
        for i in range(0, M, 2 * W):
            count = min(3 * W, M - i)
            turned = np.zeros(N * count + W * W, dtype)
            _turned(in_panels(x), turned, M, N, i, count)
            np.testing.assert_array_equal(turned[: N * count], in_panels(np.ascontiguousarray(x[i : i + count].T)))


_rows = numba.njit(bfloat16.rows_halves)


@numba.njit
def _halves(x: Any, y: Any, room: Any, M: int, N: int, i: int, count: int, which: int) -> None:
    if which == 0:
        bfloat16.pair_along(v.pointer(x), N, v.pointer(y), N // 2, M, N)
    elif which == 1:
        bfloat16.pair_down(v.pointer(x), N, v.pointer(y), N, M, N)
    elif which == 2:
        _rows(v.pointer(x), N, M, count, v.pointer(y))
    else:
        bfloat16.pair_rows(v.pointer(x), v.pointer(room), v.pointer(y), M, N, i, count)


@numba.njit
def _of_words(columns: bool, a: Any, lda: int, w: Any, c: Any, M: int, K: int, N: int) -> None:
    if columns:
        matmul.multiply_columns(v.pointer(a), lda, v.pointer(w), N, v.pointer(c), N, M, K, N, False)
    else:
        matmul.multiply(v.pointer(a), lda, v.pointer(w), N, v.pointer(c), N, M, K, N, False)


@pytest.mark.skipif(not intrinsics.has_bfloat16(), reason="this CPU has no instructions for bfloat16")
def test_words_of_bfloat16_are_rounded_arranged_and_multiplied() -> None:
    rounded = lambda x: tensors.from_bfloat16(tensors.to_bfloat16("x", x)).reshape(x.shape)  # noqa: E731
    W = intrinsics.lanes_of("float32")
    for M, N in ((2, 2 * W), (7, 4 * W), (3 * W, 2 * W)):
        x, w = random(M, N, dtype="float32"), random(N, 3 * W, dtype="float32", seed=1)
        room, along = (np.zeros(M * N + W * W, np.uint32) for _ in range(2))
        _halves(x.ravel(), along, room, M, N, 0, 0, 0)
        np.testing.assert_array_equal(tensors.from_bfloat16(along[: M * N // 2].view(np.uint16)), rounded(x).ravel())
        short = x.copy()
        short[:, N - 3 :] = np.nan
        _halves(short.ravel(), room, room, M, N, 0, N - 3, 2)
        short[:, N - 3 :] = 0.0
        np.testing.assert_array_equal(tensors.from_bfloat16(room[: M * N // 2].view(np.uint16)), rounded(short).ravel())
        pairs = np.zeros(N * 3 * W // 2, np.uint32)
        _halves(w.ravel(), pairs, room, N, 3 * W, 0, 0, 1)
        c = np.zeros((M, 3 * W), np.float32)
        _of_words(False, along, N // 2, pairs, c.ravel(), M, N // 2, 3 * W)
        np.testing.assert_allclose(c, rounded(x) @ rounded(w), rtol=0, atol=1e-4)
    x = random(4 * W, 2 * W, dtype="float32")
    words, room = np.zeros(2 * W * W, np.uint32), np.zeros(2 * W * W, np.uint32)
    _halves(in_panels(x), words, room, 4 * W, 2 * W, W, 2 * W, 3)
    want = rounded(x[W : 3 * W]).T
    np.testing.assert_array_equal(tensors.from_bfloat16(words.view(np.uint16)).reshape(W, 2 * W, 2)[..., 0], want[::2])
    np.testing.assert_array_equal(tensors.from_bfloat16(words.view(np.uint16)).reshape(W, 2 * W, 2)[..., 1], want[1::2])


def test_bfloat16_trains_as_float32_within_its_rounding() -> None:
    """Losses, gradients and logits; where the CPU or the width does not allow for it, bit for bit as float32."""
    given = (32, "learned", 2, 40), (96, "rope", 2, 90), (64, "learned", 64, 90), (48, "rope", 2, 40)
    for n_embd, position, least, block in given:
        options = {"vocab_size": 45, "block_size": block, "n_layer": 2, "n_head": 4, "n_embd": n_embd}
        model = Model(**options, position=position, activation="gelu", tie_embeddings=position == "rope")
        rng, tensors = Random(3), init_weights(model, Random(1))
        feed = pack(
            [[rng.randrange(45) for _ in range(rng.randrange(least, block) + 1)] for _ in range(12)], rows_per_step=4
        )
        found = {}
        for dtype in ("float32", "bfloat16"):
            e = engine("fused")(model, Optim(beta1=0.0), dtype=dtype)
            logits = e.logits(e.load(tensors), feed.tokens[:9])[0]
            one, tokens = e.logits(e.load(tensors), feed.tokens[:8]), feed.tokens[8:9]
            np.testing.assert_allclose(e.logits(e.load(tensors), tokens, one[1])[0][0], logits[8], rtol=0, atol=0.02)
            state, losses = e.train(e.load(tensors), feed, np.full(3, 1e-3))
            found[dtype] = (e, losses, logits, e.dump(state))
        (e, *ours), (_, *exact) = found["bfloat16"], found["float32"]
        assert e.halves == (intrinsics.has_bfloat16() and n_embd % 32 == 0)
        assert (e.remark(model, "bfloat16") is None) == e.halves
        far = [np.abs(ours[i] - exact[i]).max() / np.abs(exact[i]).max() for i in range(2)]
        far += [np.abs(ours[2][k] - g).max() / np.abs(g).max() for k, g in exact[2].items() if k.startswith("m.")]
        assert max(far) <= 0.03
        assert (min(far) > 0) == e.halves


@numba.njit
def _transposes(x: Any, ldx: int, y: Any, ldy: int, M: int, N: int, back: bool) -> None:
    if back:
        matmul.transpose_back(v.pointer(x), ldx, v.pointer(y), ldy, M, N)
    else:
        matmul.transpose(v.pointer(x), ldx, v.pointer(y), ldy, M, N)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposes_there_and_back(dtype: str) -> None:
    W = intrinsics.lanes_of(dtype)
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


@numba.njit
def _elementwise(x: Any, y: Any) -> None:
    p, q = v.pointer(x), v.pointer(y)
    n, W = len(x), v.lanes(p)
    for i in range(0, n, W):
        a = v.load(p, i)
        v.store(q, i, exp.exp(a))
        magnitude = v.maximum(a, 0.0 - a) + 1e-3
        v.store(q, n + i, v.inverse(magnitude))
        v.store(q, 2 * n + i, v.sqrt(magnitude))
        v.store(q, 3 * n + i, v.inverse_root(magnitude))
        v.store(q, 4 * n + i, v.positive(a, 2.0 * a))
        v.store(q, 5 * n + i, v.first(3, a, -1.0))
        v.store(q, 6 * n + i, exp.exp2(a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise(dtype: str) -> None:
    W = intrinsics.lanes_of(dtype)
    x = np.concatenate([random(62 * W, dtype=dtype) * 8, np.linspace(-86, 86, 2 * W).astype(dtype)])
    y = np.zeros((7, len(x)), dtype)
    _elementwise(x, y.ravel())
    magnitude = np.abs(x) + x.dtype.type(1e-3)
    ulps = {"rtol": 3 * EPS[dtype]}
    np.testing.assert_allclose(y[0], np.exp(x.astype("longdouble")).astype(dtype), **ulps)
    np.testing.assert_allclose(y[1], 1 / magnitude, **ulps)
    np.testing.assert_allclose(y[2], np.sqrt(magnitude), **ulps)
    np.testing.assert_allclose(y[3], 1 / np.sqrt(magnitude), **ulps)
    np.testing.assert_array_equal(y[4], np.maximum(2 * x, 0))
    keep = np.arange(len(x)) % W < 3
    np.testing.assert_array_equal(y[5], np.where(keep, x, -1))
    np.testing.assert_allclose(y[6], np.exp2(x.astype("longdouble")).astype(dtype), **ulps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_none(dtype: str) -> None:
    x = np.full(intrinsics.lanes_of(dtype), math.nan, dtype)
    y = np.zeros((7, len(x)), dtype)
    _elementwise(x, y.ravel())
    assert np.isnan(y[[0, 1, 2, 3, 4, 6]]).all()


@numba.njit
def _across(x: Any, y: Any) -> Any:
    a, q = v.load(v.pointer(x), 0), v.pointer(y)
    size, at = 1, 0
    while size <= v.lanes(q):
        v.store(q, at, v.group_sum(a, size))
        size, at = 2 * size, at + v.lanes(q)
    return v.total(a), v.largest(a), v.lane(a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_across_lanes(dtype: str) -> None:
    W = intrinsics.lanes_of(dtype)
    x = random(W, dtype=dtype)
    y = np.zeros((W.bit_length(), W), dtype)
    whole, largest, lane = _across(x, y.ravel())
    np.testing.assert_allclose(whole, x.sum(), rtol=20 * EPS[dtype], atol=20 * EPS[dtype])
    assert (largest, lane) == (x.max(), x[0])
    for k in range(W.bit_length()):
        want = np.repeat(x.reshape(-1, 2**k).sum(axis=1), 2**k)
        np.testing.assert_allclose(y[k], want, rtol=20 * EPS[dtype], atol=20 * EPS[dtype])


@numba.njit
def _attend(q: Any, k: Any, val: Any, ld: int, y: Any, kept: Any, room: Any, size: int, past: int, T: int) -> None:
    p = v.pointer(room)
    top = v.pointer(kept)
    k_, v_ = v.pointer(k), v.pointer(val)
    attention.attention(v.pointer(q), ld, k_, v_, ld, v.pointer(y), top, top + ld, p, size, past, T, p)


@numba.njit
def _attend_back(dy: Any, heads: Any, ld: int, kept: Any, d: Any, room: Any, size: int, T: int) -> None:
    q, dq, p, top = v.pointer(heads), v.pointer(d), v.pointer(room), v.pointer(kept)
    part = size * ld
    attention.attention_back(
        v.pointer(dy), q, q + part, q + 2 * part, q + 3 * part, ld, top, top + ld, p, p + 8192, dq, dq + part,
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
    y, room = np.zeros((size, ld), dtype), np.zeros(8192, dtype)
    _attend(q.ravel(), k.ravel(), value.ravel(), ld, y.ravel(), np.zeros(2 * ld, dtype), room, size, past, T)
    want = value[:, : past + T] @ _weights(q[:, :T], k[:, : past + T], past).T
    np.testing.assert_allclose(y[:, :T], want, atol=50 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "T"), [(1, 1), (3, 5), (4, 16), (5, 33), (16, 64), (6, 65), (7, 97), (16, 150)])
def test_attention_back_is_the_derivative(dtype: str, size: int, T: int) -> None:
    """By keys in twos of vectors and queries by blocks, on shapes at and beside the edges of both."""
    ld = 160
    heads, dy = (random(4 * size, ld, dtype=dtype, seed=4) * 2), random(size, ld, dtype=dtype, seed=5)
    q, k, value, y = heads.reshape(4, size, ld)
    kept, room, d = np.zeros(2 * ld, dtype), np.full(8192 * 3, np.nan, dtype), np.full((3, size, ld), np.nan, dtype)
    _attend(q.ravel(), k.ravel(), value.ravel(), ld, y.ravel(), kept, room, size, 0, T)
    _attend_back(dy.ravel(), heads.ravel(), ld, kept, d.ravel(), room, size, T)
    q, k, value, dy = (x[:, :T].astype(np.float64) for x in (q, k, value, dy))
    p = _weights(q, k, 0)
    dp = dy.T @ value
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) / math.sqrt(size)
    for got, want in zip(d, (k @ ds.T, q @ ds, dy @ p), strict=True):
        np.testing.assert_allclose(got[:, :T], want, atol=400 * EPS[dtype])


@numba.njit
def _adam(u: Any, w: Any, g: Any, m: Any, v_: Any, n: int) -> None:
    adam.adam(u, v.pointer(w), v.pointer(g), v.pointer(m), v.pointer(v_), n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_the_rule_written_once(dtype: str, decay: float) -> None:
    from microgpt import optim as rules
    from microgpt.config import Optim

    optim, n, step, lr = Optim(weight_decay=decay), 8 * intrinsics.lanes_of(dtype), 6, 0.02
    w, g, m, moment = (random(n, dtype=dtype, seed=i) for i in range(4))
    moment, g[:3] = np.abs(moment), 0
    moment[:2] = m[:2] = 0
    want = rules.adam(w, g * 0.5, m, moment, optim, step, lr)
    u = adam.Update(
        optim.beta1, optim.beta2, optim.eps, 0.5, lr * decay, lr / (1 - optim.beta1**7), 1 / (1 - optim.beta2**7)
    )
    _adam(u, w, g, m, moment, n)
    for ours, theirs in zip((w, m, moment), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=4 * EPS[dtype], atol=4 * EPS[dtype])


@numba.njit
def _squares(x: Any) -> float:
    return adam.squares(v.pointer(x), len(x))


def test_squares_of_many_numbers() -> None:
    x = random(13 * 1024 + 5 * intrinsics.lanes_of("float32"), dtype="float32")
    assert _squares(x) == pytest.approx(float((x.astype("float64") ** 2).sum()), rel=1e-6)


NARROW = """
import sys
import numpy as np
from random import Random
from microgpt.config import Model, Optim
from microgpt.engines.ladder import engine
from microgpt.feed import pack
from microgpt.inference.generate import generate_tokens
from microgpt.inference.sampling import Sampling
from microgpt.model import init_weights

SMALL = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "init_std": 0.4}
MODERN = {"position": "rope", "activation": "gelu", "tie_embeddings": True, "qk_norm": True, "final_norm": True}
feed = pack([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [10, 3], [4, 4, 4]] * 2, rows_per_step=3)
prompts, uniform = [[1], [2, 3], [4, 5, 6]] * 9, np.random.default_rng(0).random((27, 9))
flat, offsets = np.concatenate(prompts), np.cumsum([0, *map(len, prompts)])
for options in ({"n_head": 3, "n_embd": 18, **MODERN}, {"n_head": 4, "n_embd": 16}):
    model = Model(**SMALL, **options)
    tensors = init_weights(model, Random(0))
    results = []
    for name in ("manual", "fused"):
        e = engine(name)(model, Optim(), dtype="float64")
        state = e.load(tensors)
        state, losses = e.train(state, feed, np.full(2, 0.01))
        weights = e.dump(state)
        logits, cache = e.logits(e.load(tensors), np.arange(3))
        more, cache = e.logits(e.load(tensors), np.array([7]), cache)
        results.append((losses, logits, more, *weights.values()))
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert e.kernels.vector == int(sys.argv[1]), e.kernels.vector

    class Given(Random):
        def random(self):
            return next(self.numbers)

    plain, state = engine("manual")(model, Optim(), dtype="float64"), e.load(tensors)
    found, ends, _ = e.generate(state, flat, offsets, 9, 0.7, uniform, 10)
    turn, turn_ends, used = e.generate(state, flat, offsets, 9, 0.7, uniform.ravel(), 10)
    in_turn = Given(0)
    in_turn.numbers = iter(uniform.ravel().tolist())
    for i, prompt in enumerate(prompts):
        given = Given(0)
        given.numbers = iter(uniform[i].tolist())
        want = list(generate_tokens(plain, plain.load(tensors), prompt, 9, Sampling(0.7), given, 10))
        assert found[ends[i] : ends[i + 1]].tolist() == want, i
        if i + 1 < len(turn_ends):
            want = list(generate_tokens(plain, plain.load(tensors), prompt, 9, Sampling(0.7), in_turn, 10))
            assert turn[turn_ends[i] : turn_ends[i + 1]].tolist() == want, i
"""


@pytest.mark.skipif(sys.platform == "darwin" or os.uname().machine != "x86_64", reason="names x86 machines")
@pytest.mark.parametrize(
    ("name", "features", "vector"),
    [
        ("haswell", "+sse2,+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt", 32),
        ("nehalem", "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt", 16),  # the width of NEON
    ],
)
def test_a_narrower_machine_trains_and_writes_the_same(name: str, features: str, vector: int) -> None:
    machine = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-W", "error", "-c", NARROW, str(vector)]
    subprocess.run(command, check=True, env={**os.environ, **machine})


def test_one_row_or_many_in_a_pass_are_bitwise_the_same_rows() -> None:
    """Rows never see each other: a row's logits do not depend on what is computed beside it."""
    model = Model(vocab_size=13, block_size=20, n_layer=2, n_head=2, n_embd=12)
    e = engine("fused")(model, Optim(), dtype="float32")
    state = e.load(init_weights(model, Random(1)))
    rows = [[Random(i).randrange(13) for _ in range(n)] for i, n in enumerate((3, 21, 2, 17, 18))]
    alone = e.loss(state, pack(rows))
    together = e.loss(state, pack(rows, rows_per_step=5))
    targets = np.array([len(row) - 1 for row in rows])
    assert together[0] == pytest.approx((alone * targets).sum() / targets.sum(), rel=1e-6)
    assert pytest.approx(math.sqrt(2 / math.pi)) == activations.GELU


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_several_passes_use_the_weights_that_the_first_one_turned(dtype: str, threads: int) -> None:
    model = Model(vocab_size=13, block_size=20, n_layer=1, n_head=2, n_embd=96, position="rope")
    rows = [[Random(i).randrange(13) for _ in range(n)] for i, n in enumerate((3, 21, 2, 17, 18))]
    rates, found = np.full(3, 0.01), []
    for micro_batch_size in (0, 1, 2):
        e = engine("fused")(model, Optim(), dtype=dtype, threads=threads)
        feed = pack(rows * 3, rows_per_step=5, micro_batch_size=micro_batch_size)
        found.append(e.train(e.load(init_weights(model, Random(1))), feed, rates)[1])
    for losses in found[1:]:
        np.testing.assert_allclose(losses, found[0], rtol=1e-9 if dtype == "float64" else 2e-4)


LARGE = Model(vocab_size=50, block_size=40, n_layer=2, n_head=4, n_embd=96, position="learned")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_an_update_that_waits_is_the_update(dtype: str, tied: bool) -> None:
    """Many steps in one call, where each step's update waits for the next, as many calls of one step: bit for bit."""
    model, optim = LARGE.model_copy(update={"tie_embeddings": tied}), Optim(clip_norm=0.5, weight_decay=0.1)
    e = engine("fused")(model, optim, dtype=dtype, threads=1)
    assert adam.FEW <= e.shape.n < adam.MANY
    feed = pack([[Random(i).randrange(50) for _ in range(n)] for i, n in enumerate((21, 41, 2, 17, 33, 5, 40, 8))])
    for micro_batch_size in (0, 1):
        feed = replace(
            feed, steps=np.array([0, 2, 4, 4, 6, 8]), micro_batch_size=micro_batch_size
        )  # one step has no rows
        together, losses = e.train(e.load(init_weights(model, Random(1))), feed, np.full(5, 0.01))
        alone, found = e.load(init_weights(model, Random(1))), []
        for i in range(5):
            alone, loss = e.train(alone, feed.part(i, i + 1), np.full(1, 0.01))
            found.extend(loss)
        np.testing.assert_array_equal(losses, found)
        for name, want in e.dump(alone).items():
            np.testing.assert_array_equal(e.dump(together)[name], want)


def test_a_last_pass_without_positions_takes_nothing_from_the_norm() -> None:
    e = engine("fused")(LARGE, Optim(clip_norm=0.01, eps=0.01), dtype="float64", threads=1)
    row, alone = [3, 1, 4, 1, 5], replace(pack([[3, 1, 4, 1, 5]]), micro_batch_size=1)
    beside = replace(alone, tokens=np.array([*row, 9]), offsets=np.array([0, 5, 6]), steps=np.array([0, 2]))
    beside = replace(beside, scored=np.append(alone.scored, False))
    found = [e.dump(e.train(e.load(init_weights(LARGE, Random(1))), feed, np.ones(1))[0]) for feed in (alone, beside)]
    assert np.sqrt(sum(np.square(m).sum() for name, m in found[0].items() if name.startswith("m."))) <= 0.01
    for name, want in found[0].items():
        np.testing.assert_allclose(found[1][name], want, rtol=1e-9, atol=1e-15)


def test_a_step_that_is_not_finite_leaves_the_one_before_it_whole() -> None:
    e = engine("fused")(LARGE, Optim(), threads=1)
    feed = pack([[Random(i).randrange(50) for _ in range(20)] for i in range(4)])
    rates = np.array([0.01, 0.01, 1e38, 0.01])  # the third step's update makes the fourth one's loss no number
    broken, losses = e.train(e.load(init_weights(LARGE, Random(1))), feed, rates)
    assert len(losses) == 4
    assert not np.isfinite(losses[3])
    whole, _ = e.train(e.load(init_weights(LARGE, Random(1))), feed.part(0, 3), rates[:3])
    for name, want in e.dump(whole).items():
        np.testing.assert_array_equal(e.dump(broken)[name], want)


def trains_as_the_manual_pass(model: Model, lengths: tuple[int, ...], dtype: str) -> None:
    """Two rows a step of so many tokens each, the last alone if they are odd; the gradient clipped by its norm."""
    rng = Random(0)
    feed = pack([[rng.randrange(model.vocab) for _ in range(n)] for n in lengths], rows_per_step=2)
    trained = []
    for name in ("fused", "manual"):
        e = engine(name)(model, Optim(clip_norm=0.1), dtype=dtype, threads=1)
        state, losses = e.train(e.load(init_weights(model, Random(1))), feed, np.full(feed.n_steps, 0.001))
        trained.append((losses, e.dump(state)))
    rtol = 1e-9 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(trained[0][0], trained[1][0], rtol=rtol)
    for name, want in trained[1][1].items():
        if dtype == "float64" or not name.startswith(("m.", "v.")):
            np.testing.assert_allclose(trained[0][1][name], want, atol=1e-9 if dtype == "float64" else 2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_rows_that_lie_apart_train_as_the_manual_pass(dtype: str) -> None:
    """Rows of 256 numbers and more lie an odd number of vectors from each other."""
    shape = {"n_layer": 1, "n_head": 8, "n_embd": 256, "position": "rope", "tie_embeddings": True}
    model = Model(vocab_size=300, block_size=16, softcap=15.0, dropout=0.1, **shape)
    e = engine("fused")(model, Optim(), dtype=dtype)
    assert (e.shape.Ds, e.shape.Fs) == (256 + e.lanes, 1024 + e.lanes)
    trains_as_the_manual_pass(model, (5, 17, 12, 9), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_train_as_the_manual_pass(dtype: str) -> None:
    """A weight's gradient takes 256 positions at a time, of one row or several.

    Where all rows of a step are long, or its one, each has a product of its own for queries, keys and values.
    """
    model = Model(vocab_size=30, block_size=300, n_layer=2, n_head=3, n_embd=42, position="rope", activation="gelu")
    trains_as_the_manual_pass(model, (65, 301, 97, 70, 64, 200, 150, 3, 260, 129, 131), dtype)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_agree_with_one_and_with_themselves(threads: int) -> None:
    model, optim = Model(vocab_size=27, n_embd=32, n_layer=2), Optim(clip_norm=0.5, weight_decay=0.1)
    rng = Random(1)
    feed = pack([[rng.randrange(27) for _ in range(rng.randrange(2, 18))] for _ in range(35)], rows_per_step=7)

    def trained(threads: int) -> tuple[Any, ...]:
        e = engine("fused")(model, optim, dtype="float64", threads=threads)
        state, losses = e.train(e.load(init_weights(model, Random(0))), feed, np.full(5, 0.01))
        return losses, *e.dump(state).values()

    for one, ours, again in zip(trained(1), trained(threads), trained(threads), strict=True):
        np.testing.assert_array_equal(ours, again)
        np.testing.assert_allclose(ours, one, rtol=1e-9, atol=1e-12)


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


@pytest.mark.parametrize("cap", [0.5, 30.0, 1e4, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cap_keeps_the_digits_of_logits_far_below_it(dtype: str, cap: float) -> None:
    model = Model(vocab_size=20, block_size=16, n_layer=1, n_head=2, n_embd=8, init_std=0.5, softcap=cap)
    given, text = init_weights(model, Random(1)), np.arange(16, dtype=np.int32)
    found, want = (
        e.logits(e.load(given), text)[0] for e in (engine(n)(model, Optim(), dtype=dtype) for n in ("fused", "manual"))
    )
    np.testing.assert_allclose(found, want, rtol=1e-9 if dtype == "float64" else 1e-5, atol=1e-6)


def test_a_seed_of_any_size_makes_the_masks_of_the_other_rungs() -> None:
    model = Model(vocab_size=20, block_size=16, n_layer=1, n_head=2, n_embd=8, dropout=0.3)
    for seed in (2**63, 2**64 + 3, 10**30):
        feed = replace(pack([[1, 2, 3, 4]]), seed=seed)
        losses = []
        for name in ("fused", "manual"):
            e = engine(name)(model, Optim(), dtype="float64")
            losses.append(e.train(e.load(init_weights(model, Random(1))), feed, np.zeros(1))[1])
        np.testing.assert_allclose(*losses, rtol=1e-12)
