"""`microgpt runs`: a thousand runs, those that patterns and sweeps name, and what rm refuses."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.commands import runs as module
from microgpt.runs.folder import RunFolder
from tests.commands.test_compare import runs  # noqa: F401 - a fixture

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """runs/small, runs/wide, which evaluates, and a sweep with one trial."""
    monkeypatch.chdir(tmp_path)
    for path in runs:
        shutil.copytree(path, tmp_path / "runs" / path.name)
    shutil.copytree(runs[1], tmp_path / "runs" / "a-sweep" / "trials" / "0000")
    (tmp_path / "runs" / "a-sweep" / "sweep.toml").write_text("")
    return tmp_path / "runs"


def told(capsys: Output, *words: str) -> dict[str, object]:
    assert main(["runs", *words, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def paths(found: dict[str, object]) -> list[str]:
    rows = found["runs"]
    assert isinstance(rows, list)
    return [row["path"] for row in rows]


@pytest.mark.usefixtures("folder")
def test_runs_are_named_by_folders_patterns_and_sweeps(capsys: Output) -> None:
    assert paths(told(capsys, "list")) == ["runs/a-sweep/trials/0000", "runs/small", "runs/wide"]
    assert paths(told(capsys, "list", "runs/*e", "runs/wide", "--sort", "loss")) == ["runs/wide"]
    assert paths(told(capsys, "list", "runs/a-sweep")) == ["runs/a-sweep/trials/0000"]
    assert paths(told(capsys, "list", "--sort", "val_loss"))[-1] == "runs/small"  # it has none
    assert main(["runs", "list", "runs/x*"]) == 2
    assert main(["runs", "list", "--sort", "los"]) == 2
    err = capsys.readouterr().err
    assert "no run is there" in err
    assert "did you mean loss" in err


def test_the_lowest_loss_is_that_of_the_metrics(folder: Path, capsys: Output) -> None:
    lines = [json.loads(line) for line in (folder / "wide" / "metrics.jsonl").read_text().splitlines()]
    lowest = min((line for line in lines if "val_loss" in line), key=lambda line: line["val_loss"])
    found = told(capsys, "best", "runs/wide")
    assert (found["val_loss"], found["bits_per_byte"]) == (lowest["val_loss"], lowest["bits_per_byte"])
    (folder / "wide" / "metrics.jsonl").write_text("")  # as where its last lines tell of no evaluation
    assert told(capsys, "best", "runs/wide")["val_loss"] == lowest["val_loss"]
    assert main(["runs", "best"]) == 0
    assert capsys.readouterr().out.strip() == "runs/a-sweep/trials/0000"
    assert main(["runs", "best", "runs/small"]) == 4


def test_compare_shows_what_differs(folder: Path, capsys: Output) -> None:
    found = told(capsys, "compare", "runs/small", "runs/wide", "--sort", "path")
    assert found["differing"] == {"model.n_embd": [8, 16], "data.val_fraction": [0.0, 0.25], "run.eval_every": [0, 20]}
    assert main(["runs", "compare"]) == 0
    assert "n_embd" in capsys.readouterr().out
    assert main(["runs", "plot"]) == 0
    assert "training loss over" in capsys.readouterr().out
    points = {each["path"]: each for each in told(capsys, "plot")["runs"]}["runs/wide"]
    lines = [json.loads(line) for line in (folder / "wide" / "metrics.jsonl").read_text().splitlines()]
    tokens = {line["step"]: line["tokens"] for line in lines if "loss" in line}
    assert points["training"] == [[line["tokens"], line["loss"]] for line in lines if "loss" in line]
    assert points["held_out"] == [[tokens[line["step"]], line["val_loss"]] for line in lines if "val_loss" in line]
    pytest.importorskip("matplotlib")
    assert main(["runs", "plot", "--out", str(folder / "x.svg")]) == 0
    assert (folder / "x.svg").read_text().count("<svg") == 1
    assert main(["runs", "plot", "--out", "x.gif"]) == 2


def test_runs_beyond_those_of_a_drawing_are_counted(
    folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microgpt.commands.runs.LETTERS", "A")
    assert main(["runs", "plot", "--sort", "path"]) == 0
    printed = capsys.readouterr()
    assert "2 more runs are not drawn; name fewer, or --sort them otherwise, or --out draws up to 500" in printed.err
    assert [line for line in printed.out.splitlines() if line.startswith(("A ", "B "))] == [
        "A runs/a-sweep/trials/0000"
    ]
    pytest.importorskip("matplotlib")
    for name in ("compare", "runs"):
        monkeypatch.setattr(f"microgpt.commands.{name}.MOST_NAMED", 2)
    monkeypatch.setattr("microgpt.commands.compare.COLOURS", 2)
    assert main(["runs", "plot", "--sort", "path", "--out", str(folder / "many.svg")]) == 0
    assert "the legend names the first 2 of 3 runs" in capsys.readouterr().err
    picture = re.sub(r"\s", "", (folder / "many.svg").read_text(encoding="utf-8"))
    assert [path in picture for path in ("trials/0000", "runs/small", "runs/wide")] == [True, True, False]
    assert "#440154" in picture, "the first colour of viridis"


def test_many_settings_that_differ_have_a_line_each(
    folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    monkeypatch.setattr("microgpt.commands.runs.MOST_SETTINGS", 2)
    assert main(["runs", "compare", "runs/small", "runs/wide"]) == 0
    assert "model.n_embd" in capsys.readouterr().out  # keys are whole where each has a line
    monkeypatch.setattr("microgpt.commands.runs.MOST_SETTINGS", 1)
    assert main(["runs", "compare", "runs/small", "runs/wide"]) == 0
    assert "2 more settings differ" in capsys.readouterr().err


def test_rm_asks_and_takes_all_or_nothing(folder: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    everything = kept()
    assert main(["runs", "rm"]) == 2
    assert main(["runs", "rm", "runs/small"]) == 2  # nobody can be asked
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "y\n", raising=False)
    assert main(["runs", "rm", "runs/small"]) == 2
    (folder / "wide" / "notes.txt").write_text("mine")
    assert main(["runs", "rm", "runs/*", "--yes"]) == 2
    (folder / "wide" / "notes.txt").unlink()
    with RunFolder(folder / "wide").lock():
        assert main(["runs", "rm", "runs/*", "--yes"]) == 5
    (folder / "linked").symlink_to(folder / "wide")
    assert main(["runs", "rm", "runs/linked", "--yes"]) == 2
    (folder / "linked").unlink()
    assert kept() == everything
    assert "notes.txt, which is no part of a run" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.readline", lambda: "yes\n", raising=False)
    assert main(["runs", "rm", "runs/small"]) == 0
    assert main(["runs", "rm", "runs/wide", "--yes"]) == 0
    assert kept() == ["a-sweep"]


def test_a_thousand_runs_are_listed_in_two_seconds(folder: Path, capsys: Output) -> None:
    """Two seconds of the processor's time are promised for 1,000; a quarter of them leaves room for slow machines."""
    for i in range(250):
        shutil.copytree(
            folder / "wide", folder / "many" / f"{i:03d}", copy_function=lambda a, b: Path(b).hardlink_to(a)
        )
    for weights in folder.glob("many/*/checkpoints/*/*.safetensors"):
        weights.unlink()  # they are not looked at
    began = time.process_time()
    assert len(paths(told(capsys, "list", "runs/many", "--sort", "val_loss"))) == 250
    assert time.process_time() - began < 2
    assert module.FIGURES
