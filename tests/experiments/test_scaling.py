"""A scaling law from the command line: its runs, its prediction, and the run that checks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from microgpt.cli import main
from microgpt.experiments.batch import Batch
from microgpt.experiments.power_law import Fit
from microgpt.experiments.scaling import Family, Law, Point
from microgpt.model import n_params
from microgpt.runs.listing import RunSummary, summary
from microgpt.scenarios import scenario
from microgpt.training.train import train


def in_this_process(work: Batch) -> list[RunSummary]:
    """Train as the processes of a batch would, without their start."""
    work.settle()
    for name, config in work.configs.items():
        if not (work.folder / name).exists():
            train(config, work.folder / name)
    return [summary(work.folder / name) for name in work.configs]


def test_the_names_scenario_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Batch, "run", in_this_process)
    monkeypatch.setattr("microgpt.experiments.scaling.TIMES", 10)
    data = tmp_path / "names.txt"
    data.write_text("".join(f"{a}{b}{c}a\n" for a in "abcd" for b in "aeiou" for c in "lmn"))
    words = ["scaling", "names", "--data", str(data), "--engine", "manual", "--widths", "4,8,12", "--steps", "4,9"]
    assert main([*words, "--out", str(tmp_path / "law"), "--check", "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert [(run["width"], run["steps"]) for run in told["runs"]] == [(w, s) for w in (4, 8, 12) for s in (4, 9)]
    largest = max(6 * run["parameters"] * run["tokens"] for run in told["runs"])
    predicted = told["prediction"]
    assert 6 * predicted["parameters"] * predicted["tokens"] == pytest.approx(10 * largest, rel=0.1)
    assert (told["check"]["width"], told["check"]["steps"]) == (predicted["width"], predicted["steps"])
    assert predicted["low"] <= predicted["high"]
    assert told["intervals"].keys() == told["law"].keys()
    assert [Path(picture).stat().st_size > 1000 for picture in told["pictures"]] == [True, True]
    picture = (tmp_path / "law" / "scaling.svg").read_text()
    assert "trained" in picture
    assert told["unidentified"], "nine steps"
    assert f"do not determine {', '.join(told['unidentified'])}" in printed.err
    assert "not identified" in picture


def test_the_prediction_follows_the_law() -> None:
    """Of the widths beside it none has a lower loss for the same compute."""
    family = Family(scenario("names"), {}, [], [])
    assert (family.widths, family.steps) == ([8, 16, 32, 64], [500, 1000, 2000, 4000])
    assert Family(scenario("shakespeare"), {}, [], []).widths == [16, 32, 64, 128]
    model = family.base.model.model_copy(update={"vocab_size": 27})
    law = Fit(E=1.0, A=30.0, B=60.0, alpha=0.4, beta=0.35)
    points = []
    for width in family.widths:
        n = n_params(model.model_copy(update={"n_embd": width}))
        points += [Point(width, n, steps, steps * 100, law.loss(n, steps * 100)) for steps in family.steps]
    assert max(p.parameters for p in points) / min(p.parameters for p in points) > 10**1.5
    predicted = family.prediction(Law(points, law, [law], []), model)
    flops = 6 * predicted.parameters * predicted.tokens
    assert flops == pytest.approx(10 * max(point.flops for point in points), rel=0.01)
    assert predicted.loss == predicted.low == law.loss(predicted.parameters, predicted.tokens)
    for width in (predicted.width - 8, predicted.width + 8):
        n = n_params(model.model_copy(update={"n_embd": width}))
        assert law.loss(n, flops / 6 / n) > predicted.loss


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--widths", "8,16", "--steps", "5,10"], "6 runs"),
        (["--widths", "8,x"], "whole numbers"),
        (["--steps", "0,5,9"], "must be 1 to"),
        (["--widths", "6,8,16"], "width 6"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_it_is_trained(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scaling", "names", *words, "--out", str(tmp_path / "law")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "law").exists()
