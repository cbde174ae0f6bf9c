"""Weights in int8: what differs from float32 is rounding, the same on every CPU, and only inference takes them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Model, Optim
from microgpt.engines.common.int8 import quantised, rounded
from microgpt.errors import UsageError
from microgpt.feed import Feed
from microgpt.inference.generate import generate_many, generate_tokens
from microgpt.inference.sampling import Sampling
from microgpt.model import init_weights, table
from tests.engines.ladder import engine
from tests.inference.test_slots import Sequences, built

# Matrices whose last panel is narrow, a head apart from the embedding, and products of one row wider than a tile.
CASES: dict[str, dict[str, Any]] = {
    "narrow panels": {"n_embd": 24, "vocab_size": 33},
    "a head apart": {"n_embd": 40, "position": "rope", "tie_embeddings": False, "n_layer": 1},
    "wide": {"family": "nanochat", "n_embd": 160, "n_head": 4, "vocab_size": 300},
}


def test_each_row_has_the_scale_of_its_largest_number() -> None:
    values = np.array([[1.27, -0.014, 0.016], [0.0, 0.0, 0.0], [0.0, 2.0, -254.0]])
    whole, scale = quantised(values)
    assert whole.tolist() == [[127, -1, 2], [0, 0, 0], [0, 1, -127]]
    np.testing.assert_allclose(scale, [[0.01], [1], [2]], rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_float32_with_the_rounded_weights(case: str) -> None:
    made, state, model = built("fused", "int8", **CASES[case])
    exact = engine("fused")(model, Optim(), dtype="float32")
    weights = {name: rounded(values) for name, values in init_weights(model, Random(1)).items()}
    text = np.random.default_rng(0).integers(0, model.vocab, model.block_size)
    want = exact.logits(exact.load(weights), text)[0]
    # Activations are rounded to int16, which moves a product by 3e-5 of its size. With these large weights attention is
    # steep: the logits of 40 texts were 1.2e-4 of their size away, none more than 2.8e-4 of the largest one.
    atol = 5e-4 * float(np.abs(want).max())
    np.testing.assert_allclose(made.logits(state, text)[0], want, rtol=0, atol=atol)
    cache = None
    for token, line in zip(text, want, strict=True):  # a row at a time takes wider tiles
        logits, cache = made.logits(state, np.array([token]), cache)
        np.testing.assert_allclose(logits[0], line, rtol=0, atol=atol)
    for name, values in made.dump(state).items():
        if not name.startswith(("m.", "v.")):
            np.testing.assert_array_equal(values, weights[name])


def only_the_head(wte: np.ndarray, lm_head: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    """An engine in int8, and weights whose logits are the product of embeddings (V, D) and the head (V, D) alone.

    All matrices of the layer are zero, so it adds nothing to the residual stream.
    """
    vocab, width = wte.shape
    model = Model(
        vocab_size=vocab, block_size=vocab, n_layer=1, n_head=1, n_embd=width, position="rope", tie_embeddings=False,
        norm_embedding=False, activation="relu2",
    )  # fmt: skip
    weights = {name: np.zeros(shape) for name, shape, _ in table(model)} | {"wte": wte, "lm_head": lm_head}
    return engine("fused")(model, Optim(), dtype="int8"), weights


def product(x: np.ndarray, w: np.ndarray, terms: int) -> np.ndarray:
    """x (N, K) w^T (V, K) as the engine must compute it, with `terms` numbers per row in memory."""
    limit = min(2**15 - 1, (2**31 - 1) // (127 * terms))
    top = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(1e-30)).astype(float)
    integers = np.rint(x * (limit / top).astype(np.float32)).astype(np.int64)
    whole, scale = quantised(w)
    sums = integers @ whole.T.astype(np.int64)
    assert np.abs(sums).max() < 2**31
    return sums.astype(np.float32) * scale.T * (top / limit).astype(np.float32)


@pytest.mark.parametrize(("width", "vocab"), [(40, 61), (160, 300), (528, 40)])
def test_a_product_has_the_same_bits_on_every_cpu(width: int, vocab: int) -> None:
    """Those of NumPy's integers: for rows of zeros, tiny, huge and equal numbers, whole texts and one row at a time."""
    rng = np.random.default_rng(0)
    wte, lm_head = rng.normal(size=(2, vocab, width))
    wte[1], wte[2], wte[3] = 0.0, rng.normal(size=width) * 1e-33, rng.normal(size=width) * 1e15
    wte[4], wte[5, :-1], lm_head[7], lm_head[8] = 1.0, 0.0, 1.0, -1.0  # 4 with 7: the largest sum that there can be
    made, weights = only_the_head(wte, lm_head)
    state = made.load(weights)
    text = rng.permutation(vocab)
    x, w = (rounded(values).astype(np.float32) for values in (wte[text], lm_head))
    want = product(x, w, -(-width // made.lanes) * made.lanes)
    np.testing.assert_array_equal(made.logits(state, text)[0], want)
    cache = None
    for token, line in zip(text, want, strict=True):
        logits, cache = made.logits(state, np.array([token]), cache)
        np.testing.assert_array_equal(logits[0], line)


@pytest.mark.parametrize("entry", [1.0, -1.0])
def test_numbers_that_are_not_finite_stay_so(entry: float) -> None:
    """An activation overflows in the layer: infinite where it is quantised, then not a number at the head."""
    wte, lm_head = np.random.default_rng(1).normal(size=(2, 11, 40))
    wte[2:5, 0] = 1.0
    made, weights = only_the_head(wte, lm_head)
    weights["layer0.mlp_fc1"][5, 0] = 1e20  # squared
    weights["layer0.mlp_fc2"][7, 5] = entry
    state = made.load(weights)
    whole = made.logits(state, np.array([2, 3, 4]))[0]
    assert not np.isfinite(whole).any()


def test_slots_and_whole_texts_are_those_of_a_token_after_the_other() -> None:
    made, state, model = built("fused", "int8", **CASES["narrow panels"])
    sequences = Sequences(made, state, model, 0)
    for _ in range(100):
        sequences.anything()
    assert sequences.compared > 10
    sampling = Sampling(temperature=0.7)
    found = [list(text) for text in generate_many(made, state, [0], 3, model.block_size, sampling, Random(3), -1)]
    rng = Random(3)
    block = model.block_size
    one_by_one = [list(generate_tokens(made, state, [0], block, sampling, rng, -1)) for _ in range(3)]
    assert found == one_by_one
    assert max(map(len, found)) > 10


def test_no_training_takes_int8(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "names", "--dtype", "int8", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "microgpt: --dtype int8 is for generate, chat, eval and serve; train in float32, float64 or bfloat16\n"
    )
    assert not (tmp_path / "run").exists()
    made, state, _ = built("fused", "int8")
    feed = Feed(
        tokens=np.array([1, 2]), offsets=np.array([0, 2]), steps=np.array([0, 1]), scored=np.ones(2, bool)
    )  # fmt: skip
    assert np.isfinite(made.loss(state, feed)).all()
    with pytest.raises(UsageError, match="int8 is for generate"):
        made.train(state, feed, np.zeros(1))
