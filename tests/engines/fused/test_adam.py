"""Adam against the rule of microgpt.optim, at once and deferred to the next step."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from microgpt import optim as rules  # noqa: E402
from microgpt.config import Model, Optim  # noqa: E402
from microgpt.engines.fused import adam  # noqa: E402
from microgpt.engines.ladder import engine  # noqa: E402
from microgpt.feed import pack  # noqa: E402
from microgpt.model import init_weights  # noqa: E402
from tests.engines.fused.arrays import DTYPES, EPS, lanes_of, pointer, random  # noqa: E402


@numba.njit
def _adam(u: Any, w: Any, g: Any, m: Any, v_: Any, n: int) -> None:
    adam.adam(u, pointer(w), pointer(g), pointer(m), pointer(v_), n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_the_rule_written_once(dtype: str, decay: float) -> None:
    optim, n, step, lr = Optim(weight_decay=decay), 8 * lanes_of(dtype), 6, 0.02
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
    return adam.squares(pointer(x), len(x))


def test_squares_of_many_numbers() -> None:
    x = random(13 * 1024 + 5 * lanes_of("float32"), dtype="float32")
    assert _squares(x) == pytest.approx(float((x.astype("float64") ** 2).sum()), rel=1e-6)


LARGE = Model(vocab_size=50, block_size=40, n_layer=2, n_head=4, n_embd=96, position="learned")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_deferred_update_is_the_update(dtype: str, tied: bool) -> None:
    """Many steps in one call, where each step's update waits for the next, as many calls of one step: bit for bit."""
    model, optim = LARGE.model_copy(update={"tie_embeddings": tied}), Optim(clip_norm=0.5, weight_decay=0.1)
    waits = {"min_deferred": 1, "max_deferred": 10**6}  # whatever was found best on this machine
    e = engine("fused")(model, optim, dtype=dtype, threads=1, plan=waits)
    assert e.sizes.min_deferred <= e.shape.n < e.sizes.max_deferred
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


def test_a_last_micro_batch_without_positions_takes_nothing_from_the_norm() -> None:
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
