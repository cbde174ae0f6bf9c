from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.errors import NumericError
from microgpt.inference.sampling import Sampling, draw, draw_batch, probabilities

LOGITS = np.array([1.0, 3.0, 2.0, 0.0])


def kept(**options: float) -> list[int]:
    return np.flatnonzero(probabilities(LOGITS, Sampling(**{"temperature": 1.0, **options}))).tolist()


def test_temperature_zero_is_greedy_and_takes_the_first_of_equals() -> None:
    assert probabilities(np.array([1.0, 5.0, 5.0]), Sampling(0.0)).tolist() == [0, 1, 0]


def test_low_temperature_tends_to_greedy() -> None:
    np.testing.assert_allclose(probabilities(LOGITS, Sampling(1e-3)), probabilities(LOGITS, Sampling(0.0)))


def test_softmax_of_huge_logits_is_finite() -> None:
    p = probabilities(np.array([1e3, -1e3, 999.0]), Sampling(1.0))
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 0}, [0, 1, 2, 3]),
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 2]),
        ({"top_k": 99}, [0, 1, 2, 3]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_p": 0.01}, [1]),
        ({"top_p": 0.7}, [1, 2]),
        ({"min_p": 0.0}, [0, 1, 2, 3]),
        ({"min_p": 0.3}, [1, 2]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 3, "top_p": 0.95}, [0, 1, 2]),
    ],
)
def test_filters(options: dict[str, float], expected: list[int]) -> None:
    assert kept(**options) == expected


def test_repetition_penalty_lowers_seen_tokens_of_either_sign() -> None:
    p = probabilities(np.array([2.0, -2.0, 0.5]), Sampling(1.0, repetition_penalty=2.0), seen=[0, 1, 0])
    np.testing.assert_allclose(np.log(p) - np.log(p[2]), [0.5, -4.5, 0.0])


@given(st.integers(0, 2**32), st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_draw_is_what_the_standard_library_would_choose(seed: int, logits: list[float]) -> None:
    p = probabilities(np.array(logits), Sampling(1.0))
    ours, theirs = random.Random(seed), random.Random(seed)
    assert [draw(p, ours) for _ in range(5)] == theirs.choices(range(len(p)), weights=p.tolist(), k=5)


def test_draws_have_the_distribution() -> None:
    p, rng, n = probabilities(LOGITS, Sampling(1.0)), random.Random(5), 40_000
    counts = Counter(draw(p, rng) for _ in range(n))
    chi_square = sum((counts[i] - n * p[i]) ** 2 / (n * p[i]) for i in range(len(p)))
    assert chi_square < 30.7  # 3 degrees of freedom: p > 1e-6


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 700), st.sampled_from(["float32", "float64"]))
def test_a_batch_draws_what_each_row_draws_alone(seed: int, n: int, vocab: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(n, vocab)) * rng.choice([0.1, 3.0, 50.0])).astype(dtype)
    logits[:, rng.integers(0, vocab, size=vocab // 3)] = -np.inf
    logits[:, vocab // 2] = 1.0
    choices = [Sampling(0.0), Sampling(0.7), Sampling(1.3, top_k=3), Sampling(1.0, repetition_penalty=1.5)]
    samplings = [choices[i] if i < len(choices) else Sampling(rng.random() + 0.1) for i in rng.integers(0, 9, size=n)]
    seen = [rng.integers(0, vocab, size=5).tolist() for _ in range(n)]
    rngs, alone = ([random.Random(seed + i) for i in range(n)] for _ in range(2))
    for _ in range(3):
        expected = [draw(probabilities(*given), r) for *given, r in zip(logits, samplings, seen, alone, strict=True)]
        assert draw_batch(logits, samplings, rngs, seen) == expected
    assert [r.getstate() for r in rngs] == [r.getstate() for r in alone]


def test_a_batch_draws_the_same_where_the_number_meets_a_boundary() -> None:
    """Each row's number is its own cumulative probability, to the last bit: rounding otherwise would show."""
    logits = np.random.default_rng(0).normal(size=(64, 581)).astype(np.float32)
    samplings = [Sampling(0.5 + i / 64) for i in range(64)]
    for token in (0, 1, 7, 100, 579, 580):
        numbers = []
        for row, sampling in zip(logits, samplings, strict=True):
            mass = np.cumsum(probabilities(row, sampling))
            numbers.append(float(mass[token] / mass[-1]))
        expected = [
            draw(probabilities(row, sampling), Given(number))
            for row, sampling, number in zip(logits, samplings, numbers, strict=True)
        ]
        assert draw_batch(logits, samplings, [Given(number) for number in numbers], [()] * 64) == expected


class Given(random.Random):
    """A generator that draws one number for ever."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-308, 1e-300])
@pytest.mark.parametrize("shift", [0.0, -1.5, -9.0, 1e8])
def test_the_smallest_temperatures_are_greedy(temperature: float, shift: float) -> None:
    sampling = Sampling(temperature)
    assert probabilities(LOGITS + shift, sampling).tolist() == [0, 1, 0, 0]
    rngs = [random.Random(1), random.Random(2)]
    assert draw_batch(np.stack([LOGITS + shift] * 2), [sampling] * 2, rngs, [[], []]) == [1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 2}, {"repetition_penalty": 2.0}])
def test_logits_that_are_not_finite_are_refused(bad: float, options: dict[str, float]) -> None:
    logits = np.full(4, bad) if bad < 0 else np.array([0.0, bad, 1.0, 0.0])
    with pytest.raises(NumericError, match="not finite"):
        probabilities(logits, Sampling(**options), [1])
