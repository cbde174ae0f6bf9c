"""The fast path to whole sequences: the same tokens as the plain way, one token a call of the same engine."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.engines.ladder import LADDER, engine
from microgpt.errors import MachineError
from microgpt.inference.generate import generate_batch, generate_many, generate_tokens
from microgpt.inference.sampling import Sampling
from microgpt.model import init_weights

DTYPES = ["float32", "float64"]
SMALL = {"vocab_size": 12, "block_size": 20, "n_layer": 1, "n_head": 4, "n_embd": 16, "init_std": 0.4}
CASES: dict[str, Mapping[str, Any]] = {
    "names": {"block_size": 16, "vocab_size": 26},
    "two layers": {"n_layer": 2},
    "width no vector divides": {"n_embd": 12, "n_head": 3, "n_layer": 2},
    "heads of an odd width": {"n_embd": 21, "n_head": 3},
    "wide": {"n_embd": 72, "n_head": 2, "vocab_size": 40},
    "modern": {"family": "modern", "n_layer": 2},
    "nanochat": {"family": "nanochat", "n_layer": 2},
    "RoPE in neighbours": {"position": "rope", "rope_pairs": "interleaved"},
    "RoPE in halves": {"position": "rope", "rope_pairs": "half", "rope_base": 100.0, "tie_embeddings": True},
    "everything": {
        "family": "nanochat", "n_layer": 2, "activation": "gelu", "tie_embeddings": True, "softcap": 3.0,
        "dropout": 0.2,
    },
    "classic options": {
        "norm_embedding": False, "final_norm": True, "activation": "relu2", "softcap": 2.0, "n_layer": 2,
        "tie_embeddings": True,
    },
    "block of one": {"block_size": 1},
}  # fmt: skip


def built(dtype: str, case: Mapping[str, Any]) -> tuple[Any, Any, Model]:
    """The engine with a fast path, the state of a model with large initial weights, and the model."""
    model = Model(**{**SMALL, **case})
    for rung in LADDER:
        try:
            made = engine(rung)(model, Optim(), dtype=dtype)
        except MachineError:
            continue
        if made.generate is not None:
            return made, made.load(init_weights(model, Random(1))), model
    pytest.skip("no engine with a fast path is installed")


class Given(Random):
    """A generator that draws given numbers."""

    def __init__(self, numbers: np.ndarray) -> None:
        super().__init__(0)
        self.left = numbers.tolist()

    def random(self) -> float:
        return float(self.left.pop(0))


def prompts_for(model: Model, max_length: int, n: int) -> list[list[int]]:
    """Prompts of every length from one token to more than there is room for."""
    rng = Random(3)
    return [[rng.randrange(model.vocab) for _ in range(1 + i % (max_length + 1))] for i in range(n)]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_prompts_of_every_length_go_on_as_token_by_token(case: str, dtype: str, temperature: float) -> None:
    made, state, model = built(dtype, CASES[case])
    stop, sampling = model.vocab - 1, Sampling(temperature)
    for max_length in {model.block_size, max(1, model.block_size // 2)}:
        prompts = prompts_for(model, max_length, 45)
        flat, offsets = np.concatenate([np.array(p) for p in prompts]), np.cumsum([0, *map(len, prompts)])
        line = np.random.default_rng(5).random(45 * max_length)
        numbers = Given(line)
        found, ends, used = made.generate(state, flat, offsets, max_length, temperature, line, stop)
        for i, prompt in enumerate(prompts):
            want = list(generate_tokens(made, state, prompt, max_length, sampling, numbers, stop))
            assert found[ends[i] : ends[i + 1]].tolist() == want, i
        assert used == len(line) - len(numbers.left)

        lines = np.random.default_rng(6).random((45, max_length))
        found, ends, _ = made.generate(state, flat, offsets, max_length, temperature, lines, stop)
        for i, prompt in enumerate(prompts):
            want = list(generate_tokens(made, state, prompt, max_length, sampling, Given(lines[i]), stop))
            assert found[ends[i] : ends[i + 1]].tolist() == want, i


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_ends_where_the_numbers_might_not_suffice(dtype: str) -> None:
    made, state, model = built(dtype, {})
    flat, offsets, block = np.zeros(9, np.int32), np.arange(10), model.block_size
    line = np.random.default_rng(2).random(9 * block)
    whole, ends, _ = made.generate(state, flat, offsets, block, 1.0, line, -1)
    assert len(ends) == 10
    part, ends, used = made.generate(state, flat, offsets, block, 1.0, line[: 3 * block + 7], -1)
    assert (len(ends), used) == (4, 3 * block)
    assert part.tolist() == whole[: len(part)].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_names_and_the_generator_after_them(dtype: str) -> None:
    made, state, model = built(dtype, CASES["names"])
    first, second = Random(42), Random(42)
    assert first.gauss(0, 1) == second.gauss(0, 1)  # one more value in hand
    sampling, bos = Sampling(0.5), model.vocab - 1
    drawn = [list(each) for each in generate_many(made, state, [bos], 1000, 16, sampling, first, bos)]
    assert drawn == [list(generate_tokens(made, state, [bos], 16, sampling, second, bos)) for _ in range(1000)]
    assert first.getstate() == second.getstate()


@pytest.mark.parametrize("sampling", [Sampling(0.5), Sampling(0.0), Sampling(1.0, top_k=3), Sampling(1.0, min_p=0.1)])
def test_every_way_of_sampling_gives_the_plain_samples(sampling: Sampling) -> None:
    made, state, _ = built("float64", {})
    first, second = Random(7), Random(7)
    drawn = [list(each) for each in generate_many(made, state, [1, 2], 5, 12, sampling, first, 11)]
    assert drawn == [list(generate_tokens(made, state, [1, 2], 12, sampling, second, 11)) for _ in range(5)]
    assert first.getstate() == second.getstate()


def test_a_stream_does_not_depend_on_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    made, state, _ = built("float64", {"n_layer": 2})

    def drawn(n: int, seed: int, **filters: float) -> list[list[int]]:
        found, ends = generate_batch(made, state, [1, 2], n, 20, Sampling(1.0, **filters), seed, 11)  # type: ignore[arg-type]
        return [found[a:b].tolist() for a, b in pairwise(ends)]

    many = drawn(60, 9)
    assert drawn(7, 9) == many[:7]
    assert drawn(60, 9, min_p=1e-9) == many  # a filter that keeps all goes the plain way
    assert drawn(60, 10) != many
    monkeypatch.setattr(sys.modules[type(made).__module__], "TWO_VECTORS", 0)  # one vector of them at a time
    assert drawn(60, 9) == many
    monkeypatch.setattr(sys.modules[type(made).__module__], "MAX_BATCH", 0)  # no room to go side by side
    assert drawn(60, 9) == many


def test_sequences_of_large_logits_are_those_of_the_plain_way() -> None:
    """What the short way may be off by grows with them; the seeds are some with which a draw lay that near an edge."""
    model = Model(vocab_size=60, block_size=16, n_layer=3, n_head=4, n_embd=32, activation="relu2", init_std=0.3)
    given = {name: w / 0.3 for name, w in init_weights(model, Random(0.4296015755763132)).items()}
    made = type(built("float32", {})[0])(model, Optim(), dtype="float32")
    state, sampling, first, second = made.load(given), Sampling(0.5), Random(345), Random(345)
    assert np.abs(made.logits(state, np.array([1, 2, 3]))[0]).max() > 10_000
    drawn = [list(each) for each in generate_many(made, state, [1], 400, 16, sampling, first, 0)]
    assert drawn == [list(generate_tokens(made, state, [1], 16, sampling, second, 0)) for _ in range(400)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chance_of_nearly_one_takes_no_token_that_is_never_drawn(dtype: str) -> None:
    made, _, model = built(dtype, {})
    given = init_weights(model, Random(1))
    given["lm_head"][:11] *= 3.0
    given["lm_head"][11] = 0.0  # the last token's logit is 0, far below the largest
    state, line = made.load(given), np.full((1, 20), 1 - 1e-9)
    found, _, _ = made.generate(state, np.array([1]), np.array([0, 1]), 2, 0.1, line, -1)
    assert found.tolist() == list(generate_tokens(made, state, [1], 2, Sampling(0.1), Given(line[0]), -1))


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e300])
def test_temperatures_at_which_numbers_overflow_are_drawn_token_by_token(temperature: float) -> None:
    made, state, _ = built("float32", {})
    sampling, first, second = Sampling(temperature), Random(1), Random(1)
    want = [list(generate_tokens(made, state, [1], 8, sampling, second, 11)) for _ in range(3)]
    assert [list(each) for each in generate_many(made, state, [1], 3, 8, sampling, first, 11)] == want
    found, ends = generate_batch(made, state, [1], 3, 8, sampling, 1, 11)
    if temperature < 1:
        assert [found[a:b].tolist() for a, b in pairwise(ends)] == want


def test_no_streams_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made, state, _ = built("float64", {})
    monkeypatch.setattr(sys.modules[type(made).__module__], "MAX_BATCH", 0)
    found, ends = generate_batch(made, state, [1, 2], 0, 20, Sampling(1.0), 9, 11)
    assert (found.tolist(), ends.tolist()) == ([], [0])
