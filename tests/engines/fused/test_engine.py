"""The engine as a whole: rows, micro-batches, threads and options, against itself and the manual pass."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt.config import Model, Optim  # noqa: E402
from microgpt.engines.fused import activations  # noqa: E402
from microgpt.engines.ladder import engine  # noqa: E402
from microgpt.errors import NumericError  # noqa: E402
from microgpt.feed import pack  # noqa: E402
from microgpt.model import init_weights  # noqa: E402
from tests.engines.fused.arrays import DTYPES  # noqa: E402


def test_one_row_or_many_in_a_micro_batch_are_the_same_rows() -> None:
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
def test_micro_batches_use_the_weights_that_the_first_one_transposed(dtype: str, threads: int) -> None:
    model = Model(vocab_size=13, block_size=20, n_layer=1, n_head=2, n_embd=96, position="rope")
    rows = [[Random(i).randrange(13) for _ in range(n)] for i, n in enumerate((3, 21, 2, 17, 18))]
    rates, found = np.full(3, 0.01), []
    for micro_batch_size in (0, 1, 2):
        e = engine("fused")(model, Optim(), dtype=dtype, threads=threads)
        feed = pack(rows * 3, rows_per_step=5, micro_batch_size=micro_batch_size)
        found.append(e.train(e.load(init_weights(model, Random(1))), feed, rates)[1])
    for losses in found[1:]:
        np.testing.assert_allclose(losses, found[0], rtol=1e-9 if dtype == "float64" else 2e-4)


@pytest.mark.parametrize("near", [1, 37, 5461, 8192])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_threads_add_each_gradient_once(dtype: str, near: int) -> None:
    """In pieces of the level 1 cache, of which some sizes, two thirds of 32 KB among them, are no whole vectors."""
    model = Model(vocab_size=13, block_size=20, n_layer=2, n_head=2, n_embd=64, position="rope")
    rows = [[Random(i).randrange(13) for _ in range(n)] for i, n in enumerate((3, 21, 2, 17, 18, 9))]
    feed, found = pack(rows, rows_per_step=6), []
    for threads in (1, 2):
        e = engine("fused")(model, Optim(beta1=0.0), dtype=dtype, threads=threads, plan={"near": near})
        norms = np.zeros(1)
        state, _ = e.train(e.load(init_weights(model, Random(1))), feed, np.full(1, 0.01), norms)
        gradients = [value for name, value in e.dump(state).items() if name.startswith("m.")]
        found.append((norms, *gradients))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=(1e-12 if dtype == "float64" else 1e-5) * np.abs(one).max())


def trains_as_the_manual_pass(model: Model, lengths: tuple[int, ...], dtype: str) -> None:
    """Two rows per step of so many tokens each, the last alone if they are odd; the gradient clipped by its norm."""
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
def test_wide_rows_with_an_odd_stride_train_as_the_manual_pass(dtype: str) -> None:
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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("side_by_side", [False, True])
def test_weights_too_large_to_draw_with_are_refused(temperature: float, side_by_side: bool) -> None:
    """As the other engines do, whose logits are checked when a token is drawn."""
    model = Model(vocab_size=11, block_size=9, n_embd=16, n_head=4)
    e, rng = engine("fused")(model, Optim()), np.random.default_rng(0)
    # Not all weights: a norm whose squares overflow is 0 or not a number, as a CPU finds its inverse root.
    huge = init_weights(model, Random(0))
    huge["lm_head"] = np.full_like(huge["lm_head"], 3e38)
    uniform = rng.random((20, 9) if side_by_side else 180)
    with pytest.raises(NumericError, match="logits are not finite"):
        e.generate(e.load(huge), np.ones(20, np.int32), np.arange(21), 9, temperature, uniform, 10)
