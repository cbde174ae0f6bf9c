"""Weights in int8: all that differs from float32 is the rounding of the weights, and only inference takes them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Optim
from microgpt.engines.common.int8 import quantised, rounded
from microgpt.errors import UsageError
from microgpt.feed import Feed
from microgpt.inference.generate import generate_many, generate_tokens
from microgpt.inference.sampling import Sampling
from microgpt.model import init_weights
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
    atol = 1e-5 * float(np.abs(want).max())
    np.testing.assert_allclose(made.logits(state, text)[0], want, rtol=0, atol=atol)
    cache = None
    for token, line in zip(text, want, strict=True):  # a row at a time takes wider tiles
        logits, cache = made.logits(state, np.array([token]), cache)
        np.testing.assert_allclose(logits[0], line, rtol=0, atol=atol)
    for name, values in made.dump(state).items():
        if not name.startswith(("m.", "v.")):
            np.testing.assert_array_equal(values, weights[name])


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
