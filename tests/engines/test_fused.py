"""The fused rung's own vocabulary: vectors and tiles against NumPy, on odd shapes and on a narrower machine."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.engines.fused import attention, kernels, passes, products  # noqa: E402
from microgpt.engines.fused import vectors as v  # noqa: E402
from microgpt.engines.fused.tiles import PAIR, ROWS, WIDE  # noqa: E402

DTYPES = ["float32", "float64"]
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}


def random(*shape: int, dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@numba.njit
def _products(
    a: Any, down: int, along: int, w: Any, ldw: int, c: Any, ldc: int, M: int, K: int, N: int, add: bool
) -> None:
    products.product(v.pointer(a), down, along, v.pointer(w), ldw, v.pointer(c), ldc, M, K, N, add)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("adding", [False, True])
def test_products_of_every_number_of_rows(dtype: str, columns: bool, adding: bool) -> None:
    W = v.lanes_of(dtype)
    for M in range(1, 2 * ROWS + 2):
        for K, vectors in ((1, 1), (3, PAIR), (17, 2 * PAIR + 1), (5, WIDE + 1)):
            N = vectors * W
            a, w, c = random(M, K + 2, dtype=dtype), random(K, N + W, dtype=dtype), random(M + 1, N + 3, dtype=dtype)
            want = c.astype("float64")
            want[:M, :N] = want[:M, :N] * adding + a[:, :K].astype("float64") @ w[:, :N]
            given = np.ascontiguousarray(a[:, :K].T) if columns else a
            down, along = (1, M) if columns else (K + 2, 1)
            _products(given.ravel(), down, along, w.ravel(), N + W, c.ravel(), N + 3, M, K, N, adding)
            np.testing.assert_allclose(c, want, rtol=0, atol=40 * EPS[dtype])


@numba.njit
def _transposes(x: Any, ldx: int, y: Any, ldy: int, M: int, N: int, back: bool) -> None:
    if back:
        products.transpose_back(v.pointer(x), ldx, v.pointer(y), ldy, M, N)
    else:
        products.transpose(v.pointer(x), ldx, v.pointer(y), ldy, M, N)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposes_there_and_back(dtype: str) -> None:
    W = v.lanes_of(dtype)
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
        v.store(q, i, v.exp(a))
        magnitude = v.maximum(a, 0.0 - a) + 1e-3
        v.store(q, n + i, v.inverse(magnitude))
        v.store(q, 2 * n + i, v.root(magnitude))
        v.store(q, 3 * n + i, v.inverse_root(magnitude))
        v.store(q, 4 * n + i, v.positive(a, 2.0 * a))
        v.store(q, 5 * n + i, v.first(3, a, -1.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise(dtype: str) -> None:
    W = v.lanes_of(dtype)
    x = np.concatenate([random(62 * W, dtype=dtype) * 8, np.linspace(-86, 86, 2 * W).astype(dtype)])
    y = np.zeros((6, len(x)), dtype)
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_none(dtype: str) -> None:
    x = np.full(v.lanes_of(dtype), math.nan, dtype)
    y = np.zeros((6, len(x)), dtype)
    _elementwise(x, y.ravel())
    assert np.isnan(y[:5]).all()


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
    W = v.lanes_of(dtype)
    x = random(W, dtype=dtype)
    y = np.zeros((W.bit_length(), W), dtype)
    whole, largest, lane = _across(x, y.ravel())
    np.testing.assert_allclose(whole, x.sum(), rtol=20 * EPS[dtype], atol=20 * EPS[dtype])
    assert (largest, lane) == (x.max(), x[0])
    for k in range(W.bit_length()):
        want = np.repeat(x.reshape(-1, 2**k).sum(axis=1), 2**k)
        np.testing.assert_allclose(y[k], want, rtol=20 * EPS[dtype], atol=20 * EPS[dtype])


@numba.njit
def _attend(q: Any, k: Any, val: Any, ld: int, y: Any, room: Any, size: int, past: int, T: int) -> None:
    p = v.pointer(room)
    k_, v_ = v.pointer(k), v.pointer(val)
    attention.attention(v.pointer(q), ld, k_, v_, ld, v.pointer(y), p, p + 64, p + 128, size, past, T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "past", "T"), [(1, 0, 1), (3, 0, 5), (4, 7, 2), (5, 3, 20), (16, 0, 33)])
def test_attention_is_softmax_of_scores(dtype: str, size: int, past: int, T: int) -> None:
    ld = 64
    q, k, value = (random(size, ld, dtype=dtype, seed=i) for i in range(3))
    y = np.zeros((size, ld), dtype)
    _attend(q.ravel(), k.ravel(), value.ravel(), ld, y.ravel(), np.zeros(8192, dtype), size, past, T)
    scores = q[:, :T].T @ k[:, : past + T] / math.sqrt(size)
    scores[np.arange(past + T) > past + np.arange(T)[:, None]] = -np.inf
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    want = value[:, : past + T] @ (p / p.sum(axis=1, keepdims=True)).T
    np.testing.assert_allclose(y[:, :T], want, atol=50 * EPS[dtype])


@numba.njit
def _adam(u: Any, w: Any, g: Any, m: Any, v_: Any, n: int) -> None:
    kernels.adam(u, v.pointer(w), v.pointer(g), v.pointer(m), v.pointer(v_), n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_the_rule_written_once(dtype: str, decay: float) -> None:
    from microgpt import optim as rules
    from microgpt.config import Optim

    optim, n, step, lr = Optim(weight_decay=decay), 8 * v.lanes_of(dtype), 6, 0.02
    w, g, m, moment = (random(n, dtype=dtype, seed=i) for i in range(4))
    moment, g[:3] = np.abs(moment), 0
    moment[:2] = m[:2] = 0
    want = rules.adam(w, g * 0.5, m, moment, optim, step, lr)
    u = kernels.Update(
        optim.beta1, optim.beta2, optim.eps, 0.5, lr * decay, lr / (1 - optim.beta1**7), 1 / (1 - optim.beta2**7)
    )
    _adam(u, w, g, m, moment, n)
    for ours, theirs in zip((w, m, moment), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=4 * EPS[dtype], atol=4 * EPS[dtype])


@numba.njit
def _squares(x: Any) -> float:
    return kernels.squares(v.pointer(x), len(x))


def test_squares_of_many_numbers() -> None:
    x = random(13 * 1024 + 5 * v.lanes_of("float32"), dtype="float32")
    assert _squares(x) == pytest.approx(float((x.astype("float64") ** 2).sum()), rel=1e-6)


NARROW = """
import sys
import numpy as np
from random import Random
from microgpt.config import Model, Optim
from microgpt.engines import engine, pack
from microgpt.generate import Sampling, tokens
from microgpt.model import first_values

SMALL = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "init_std": 0.4}
MODERN = {"position": "rope", "activation": "gelu", "tie_embeddings": True, "qk_norm": True, "final_norm": True}
feed = pack([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [10, 3], [4, 4, 4]] * 2, rows_a_step=3)
prompts, uniform = [[1], [2, 3], [4, 5, 6]] * 9, np.random.default_rng(0).random((27, 9))
flat, offsets = np.concatenate(prompts), np.cumsum([0, *map(len, prompts)])
for options in ({"n_head": 3, "n_embd": 18, **MODERN}, {"n_head": 4, "n_embd": 16}):
    model = Model(**SMALL, **options)
    tensors = first_values(model, Random(0))
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
    found, ends, _ = e.write(state, flat, offsets, 9, 0.7, uniform, 10)
    turn, turn_ends, used = e.write(state, flat, offsets, 9, 0.7, uniform.ravel(), 10)
    in_turn = Given(0)
    in_turn.numbers = iter(uniform.ravel().tolist())
    for i, prompt in enumerate(prompts):
        given = Given(0)
        given.numbers = iter(uniform[i].tolist())
        want = list(tokens(plain, plain.load(tensors), prompt, 9, Sampling(0.7), given, 10))
        assert found[ends[i] : ends[i + 1]].tolist() == want, i
        if i + 1 < len(turn_ends):
            want = list(tokens(plain, plain.load(tensors), prompt, 9, Sampling(0.7), in_turn, 10))
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
    from random import Random

    from microgpt.config import Model, Optim
    from microgpt.engines import engine, pack
    from microgpt.model import first_values

    model = Model(vocab_size=13, block_size=20, n_layer=2, n_head=2, n_embd=12)
    e = engine("fused")(model, Optim(), dtype="float32")
    state = e.load(first_values(model, Random(1)))
    rows = [[Random(i).randrange(13) for _ in range(n)] for i, n in enumerate((3, 21, 2, 17, 18))]
    alone = e.loss(state, pack(rows))
    together = e.loss(state, pack(rows, rows_a_step=5))
    targets = np.array([len(row) - 1 for row in rows])
    assert together[0] == pytest.approx((alone * targets).sum() / targets.sum(), rel=1e-6)
    assert pytest.approx(math.sqrt(2 / math.pi)) == passes.GELU


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_agree_with_one_and_with_themselves(threads: int) -> None:
    from random import Random

    from microgpt.config import Model, Optim
    from microgpt.engines import engine, pack
    from microgpt.model import first_values

    model, optim = Model(vocab_size=27, n_embd=32, n_layer=2), Optim(clip_norm=0.5, weight_decay=0.1)
    rng = Random(1)
    feed = pack([[rng.randrange(27) for _ in range(rng.randrange(2, 18))] for _ in range(35)], rows_a_step=7)

    def trained(threads: int) -> tuple[Any, ...]:
        e = engine("fused")(model, optim, dtype="float64", threads=threads)
        state, losses = e.train(e.load(first_values(model, Random(0))), feed, np.full(5, 0.01))
        return losses, *e.dump(state).values()

    for one, ours, again in zip(trained(1), trained(threads), trained(threads), strict=True):
        np.testing.assert_array_equal(ours, again)
        np.testing.assert_allclose(ours, one, rtol=1e-9, atol=1e-12)
