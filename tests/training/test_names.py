"""The names run: the numbers that everything else is measured against."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import gpt
from microgpt.cli import main

GOLDEN = [line.strip() for line in (Path(__file__).parents[1] / "golden" / "names_losses.txt").read_text().splitlines()]
SAMPLES = """
kamon ann karai jaire vialan karia yeran anna areli kaina konna keylen liole alerin earan lenne kana lara alela anton
""".split()

RealData = Callable[[str], Path]


def oracle(path: Path, steps: int) -> tuple[list[str], list[str]]:
    """The first losses of gpt.py, and after 1000 of them its samples."""
    docs, rng = path.read_text(encoding="utf-8").split(), random.Random(gpt.SEED)
    rng.shuffle(docs)
    vocab = [*sorted(set("".join(docs))), gpt.BOS]
    weights = gpt.init_weights(len(vocab), rng)
    losses = [repr(loss) for loss in islice(gpt.train(weights, vocab, docs), steps)]
    return losses, [gpt.sample(weights, vocab, rng) for _ in range(20)] if steps == gpt.NUM_STEPS else []


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def test_oracle_is_the_true_run(real_data: RealData) -> None:
    losses, samples = oracle(real_data("names"), 1000)
    assert losses == GOLDEN
    assert losses[-1] == "2.6496944697407585"
    assert samples == SAMPLES


def test_scalar_is_the_oracle_bit_for_bit(real_data: RealData, tmp_path: Path) -> None:
    data, out = str(real_data("names")), tmp_path / "run"
    assert main(["train", "names", "--engine", "scalar", "--data", data, "--stop-at", "200", "--out", str(out)]) == 0
    assert [repr(loss) for loss in losses_of(out)] == GOLDEN[:200]


@pytest.mark.parametrize(("dtype", "relative"), [("float64", 1e-9), ("float32", 1e-5)])
def test_manual_follows_the_true_run(
    real_data: RealData, tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, relative: float
) -> None:
    data, out = str(real_data("names")), str(tmp_path / "run")
    assert main(["train", "names", "--engine", "manual", "--dtype", dtype, "--data", data, "--out", out]) == 0
    np.testing.assert_allclose(losses_of(tmp_path / "run"), [float(x) for x in GOLDEN], rtol=relative)
    assert capsys.readouterr().out.split() == SAMPLES
    assert main(["generate", out, "-n", "20", "--seed", "run"]) == 0
    assert capsys.readouterr().out.split() == SAMPLES


def test_rungs_are_the_oracle_on_the_packaged_names(given_names: Path, tmp_path: Path) -> None:
    expected, _ = oracle(given_names, 20)
    for engine, exact in (("scalar", True), ("manual", False)):
        out = tmp_path / engine
        words = ["train", str(given_names), "--engine", engine, "--dtype", "float64", "--stop-at", "20"]
        assert main([*words, "--out", str(out)]) == 0
        losses = losses_of(out)
        np.testing.assert_allclose(losses, [float(x) for x in expected], rtol=0 if exact else 1e-9)
