"""The losses to beat, against n-gram models that are counted in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from microgpt.config import Config, Data
from microgpt.errors import DataError, UsageError
from microgpt.inference.baselines import MOST_BYTES, Pairs, baselines, near, ngram_losses
from microgpt.training.train import train
from tests.chats import tiny


def test_the_models_are_distributions() -> None:
    """Summed over all next tokens the probabilities are 1, after tokens that were seen and after others."""
    rng = np.random.default_rng(1)
    training = Pairs(rng.integers(0, 5, 200), rng.integers(0, 7, 200))
    for before in (0, 4, 6):  # 6 was never seen
        total = [0.0, 0.0]
        for target in range(7):
            losses = ngram_losses(training, Pairs(np.array([before]), np.array([target])), 7)
            total = [sum_ + math.exp(-loss) for sum_, loss in zip(total, losses, strict=True)]
        assert total == pytest.approx([1, 1])


def test_they_are_those_of_plain_counting(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    words = ["emma", "ada", "mia", "bob", "otto", "ida"]
    text.write_text("\n".join(words) + "\n", encoding="utf-8")
    run = {"steps": 2, "samples": 0}
    config = Config.from_dict({"data": {"path": str(text), "format": "lines"}, "model": {"n_embd": 8}, "run": run})
    train(config, tmp_path / "run")
    found = baselines(tmp_path / "run")
    pairs = [pair for word in words for pair in zip("." + word, word + ".", strict=True)]
    once, both = Counter(b for _, b in pairs), Counter(pairs)
    first, vocabulary = Counter(a for a, _ in pairs), len({*"".join(words)}) + 1

    def p1(b: str) -> float:
        return (once[b] + 1) / (len(pairs) + vocabulary)

    def p2(a: str, b: str) -> float:
        kinds = len({y for x, y in both if x == a})
        return (both[a, b] + kinds * p1(b)) / (first[a] + kinds)

    assert found.on == "training"
    assert found.uniform == math.log(vocabulary)
    assert found.unigram == pytest.approx(-sum(math.log(p1(b)) for _, b in pairs) / len(pairs))
    assert found.bigram == pytest.approx(-sum(math.log(p2(a, b)) for a, b in pairs) / len(pairs))
    assert found.bigram < found.unigram < found.uniform
    text.write_text("\n".join(reversed(words)) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="no longer the one"):
        baselines(tmp_path / "run")
    text.unlink()
    with pytest.raises(DataError, match="no such file"):
        baselines(tmp_path / "run")


def test_a_part_that_is_held_out_is_measured(talks: Path, tmp_path: Path) -> None:
    train(tiny(talks, run={"steps": 2, "eval_every": 2, "samples": 0}), tmp_path / "run")
    found = baselines(tmp_path / "run")
    assert found.on == "held-out"
    assert found.bigram < found.unigram < found.uniform


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROGPT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    with pytest.raises(DataError, match="not on this machine"):
        near(Data(dataset="alice"))
    with pytest.raises(UsageError, match="does not say"):
        near(Data())
    assert near(Data(dataset="names")).path, "the package's own list of names"
    with (tmp_path / "long.txt").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DataError, match="longer than 64 MiB"):
        near(Data(path=str(tmp_path / "long.txt")))
