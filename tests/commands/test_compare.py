"""`microgpt compare`: figures of the metrics, settings that differ, curves."""

from __future__ import annotations

import importlib.util
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.commands import compare
from microgpt.commands.compare import chart
from microgpt.config import Config
from microgpt.training.train import train

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on one text: the second is wider and evaluates."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "names.txt").write_text("anna\nemma\nolivia\nbob\n" * 20, encoding="utf-8")
    base = {"steps": 60, "engine": "manual", "dtype": "float64", "samples": 0}
    for name, model, data, run in (
        ("small", {"n_embd": 8}, {}, {}),
        ("wide", {"n_embd": 16}, {"val_fraction": 0.25}, {"eval_every": 20}),
    ):
        data = {"path": str(folder / "names.txt"), **data}
        train(Config.from_dict({"name": name, "model": model, "data": data, "run": {**base, **run}}), folder / name)
    return [folder / "small", folder / "wide"]


def test_the_figures_are_those_of_the_metrics(runs: list[Path], capsys: Output) -> None:
    assert main(["compare", *map(str, runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for path, row in zip(runs, found["runs"], strict=True):
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        steps, held = ([line for line in lines if key in line] for key in ("loss", "val_loss"))
        assert row["step"] == row["steps"] == 60
        assert row["tokens"] == steps[-1]["tokens"]
        assert row["seconds"] == steps[-1]["seconds"]
        assert row["loss"] == pytest.approx(sum(line["loss"] for line in steps[-50:]) / 50)
        best = min(held, key=lambda line: line["val_loss"]) if held else {}
        for key in ("val_loss", "bits_per_byte"):
            assert row[key] == best.get(key)
        assert row["best_step"] == best.get("step")
    assert found["runs"][0]["parameters"] < found["runs"][1]["parameters"]
    assert found["differing"] == {
        "model.n_embd": [8, 16],
        "data.val_fraction": [0.0, 0.25],
        "run.eval_every": [0, 20],
    }


def test_the_tables_and_curves_fit_the_terminal(
    runs: list[Path], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs[0].parent)
    for columns in (60, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["compare", "small", "wide"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        assert lines[:2] == ["A small", "B wide"]
        assert any(re.fullmatch(r"best step +- +\d+ *", line) for line in lines)
        assert any(re.fullmatch(r"model\.n_embd +8 +16 *", line) for line in lines)
        assert any("A" in line and "|" in line for line in lines)


def test_the_weights_are_not_read(
    runs: list[Path], tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    for path in runs:
        shutil.copytree(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"")
    assert main(["compare", "small", "wide"]) == 0


def test_a_picture(runs: list[Path], tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["compare", *map(str, runs), "--plot"]
    assert main([*words, str(tmp_path / "x.txt")]) == 2
    assert "expected a name that ends in .svg, .png, .pdf" in capsys.readouterr().err
    if importlib.util.find_spec("matplotlib"):
        assert main([*words, str(tmp_path / "x.svg")]) == 0
        assert ET.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")
        assert str(runs[0]) in re.sub(r"\s", "", (tmp_path / "x.svg").read_text(encoding="utf-8"))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main([*words, str(tmp_path / "y.svg")]) == 2
    assert "matplotlib is not installed; run pip install -e '.[plot]'" in capsys.readouterr().err


def test_folders_that_are_no_runs(runs: list[Path], tmp_path: Path, capsys: Output) -> None:
    assert main(["compare", str(runs[0])]) == 2
    assert "name 2 to 26 runs, got 1" in capsys.readouterr().err
    assert main(["compare", str(runs[0]), str(tmp_path)]) == 4
    assert f"{tmp_path}: not the folder of a run (run.toml is missing)" in capsys.readouterr().err
    (tmp_path / "run.toml").write_text("[model]\nn_embd = 'x'\n", encoding="utf-8")
    assert main(["compare", str(runs[0]), str(tmp_path)]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_the_chart_places_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "chart_columns", lambda: 20)
    lines = chart([[(0.0, 3.0), (100.0, 1.0)], [(0.0, 3.0), (50.0, 2.0)], []])
    assert lines[0] == "   3.00 |*"
    assert lines[compare.HEIGHT - 1] == f"   1.00 |{'':19}A"
    assert any(line.endswith(f"|{'':10}B") for line in lines)
    assert lines[-1].endswith("training loss over 0 to 100 tokens")
    assert chart([[], []]) == []
    assert chart([[(5.0, 2.0)]])[0].startswith("   2.00 |")
