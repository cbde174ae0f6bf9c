from __future__ import annotations

import random

import pytest

from microgpt import rng
from microgpt.rng import from_numpy, gauss, to_numpy


@pytest.mark.parametrize("counts", [(1,), (2,), (3, 0, 4), (1, 1, 1), (700, 1, 1300)])
def test_gauss_draws_the_same_doubles_as_the_standard_library(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rng, "PAIRS", 64)
    ours, theirs = random.Random(7), random.Random(7)
    for n in counts:
        assert gauss(ours, n, 0.08).tolist() == [theirs.gauss(0, 0.08) for _ in range(n)]
    assert ours.getstate() == theirs.getstate()
    assert ours.random() == theirs.random()


def test_numpy_draws_on_where_python_stands_and_back() -> None:
    ours, theirs = random.Random(3), random.Random(3)
    assert ours.gauss(0, 1) == theirs.gauss(0, 1)  # leaves a second value for the next call
    generator = to_numpy(ours)
    assert generator.random_sample(1000).tolist() == [theirs.random() for _ in range(1000)]
    from_numpy(ours, generator, ours.getstate()[2])
    assert ours.getstate() == theirs.getstate()
    assert ours.gauss(0, 1) == theirs.gauss(0, 1)
