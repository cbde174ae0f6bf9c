"""`microgpt train TEXT`: what is chosen, the time, and a run.toml that repeats the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.config import Run
from microgpt.engines.common import hardware
from microgpt.recipes import speed
from microgpt.recipes.table import TEXT, Recipe
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder

PARTS = "".join(
    f"The {who} of the {where} went out at {n} o'clock,\nand came back with a {what}.\n\n"
    for n, (who, where, what) in enumerate(
        (a, b, c)
        for a in ("king", "miller", "fox")
        for b in ("wood", "river", "hill", "house")
        for c in ("lamp", "stone", "tale")
    )
)
SMALL = [
    "--engine",
    "manual",
    "--n-layer",
    "1",
    "--n-embd",
    "16",
    "--n-head",
    "2",
    "--block-size",
    "16",
    "--samples",
    "1",
]


@pytest.fixture(autouse=True)
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(rows: Sequence[Recipe], run: Run) -> dict[Recipe, float]:
        return dict.fromkeys(rows, 10_000.0)

    monkeypatch.setattr(speed, "measure", measured)


def weights(out: Path) -> bytes:
    return (checkpoint.list_steps(out / "checkpoints")[-1] / "model.safetensors").read_bytes()


def test_a_text_in_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = tmp_path / "tales.txt", tmp_path / "run"
    text.write_text(PARTS)
    assert main(["train", str(text), "--out", str(out), "--time", "2s", "--patience", "0", *SMALL]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "time    2 s (--time), a tenth of the text held out (--val-fraction)"
    assert " from the training part, " in said[2]
    assert [line.split()[0] for line in said[:5]] == ["time", "text", "tokens", "shape", "rate"]
    config = RunFolder(out).config()
    assert (config.model.family, config.data.format, config.data.packing) == ("modern", "paragraphs", "joined")
    assert (config.model.n_embd, config.max_seconds, config.data.tokenizer_on) == (16, 0, "train")

    assert main(["train", str(out / "run.toml"), "--out", str(tmp_path / "again")]) == 0
    assert "time " not in capsys.readouterr().err
    assert weights(tmp_path / "again") == weights(out)
    assert main(["train", "--out", str(out), "--extend", "1"]) == 0, "a resumed run has its tokenizer"


def test_names_and_steps_stay_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, text = tmp_path / "names.txt", tmp_path / "tales.txt"
    names.write_text("emma\nolivia\nava\n" * 50)
    text.write_text(PARTS)
    few = ["--steps", "2", "--max-time", "30m", "--samples", "1", "--engine", "manual"]
    for source, family in ((names, "classic"), (text, "modern")):
        out = tmp_path / family
        assert main(["train", str(source), "--out", str(out), *few]) == 0
        assert not capsys.readouterr().err.startswith("time ")
        config = RunFolder(out).config()
        assert (config.model.family, config.model.n_embd, config.run.steps) == (family, 16, 2)
        assert config.data.val_fraction == 0


@pytest.mark.parametrize("words", [["names"], ["--resume"], ["tales.txt", "--resume"]])
def test_where_nothing_can_be_chosen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words, "--time", "5s"]) == 2
    assert "--max-time" in capsys.readouterr().err


def test_the_time_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tales.txt").write_text(PARTS)
    assert main(["train", str(tmp_path / "tales.txt"), "--time", "soon"]) == 2
    assert "--time 'soon': expected seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run", "native", "chosen"),
    [
        ({}, True, "bfloat16"),
        ({}, False, "auto"),
        ({"engine": "manual"}, True, "auto"),
        ({"dtype": "float64"}, True, "float64"),
        ({"engine": "fused", "dtype": "float32"}, True, "float32"),
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(
    run: dict[str, str], native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(hardware, "cpu", lambda: {"bfloat16": native})
    assert speed.dtype(TEXT[-1], Run(**run)) == chosen  # type: ignore[arg-type]
    assert speed.dtype(TEXT[-1]._replace(n_embd=40), Run(**run)) == chosen.replace("bfloat16", "auto")  # type: ignore[arg-type]


def test_the_float_type_is_in_the_plan_and_a_flag_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "dtype", lambda row, run: "float64" if run.dtype == "auto" else run.dtype)
    text = tmp_path / "tales.txt"
    text.write_text(PARTS)
    for flags, kind in ([], "float64"), (["--dtype", "float32"], "float32"):
        out = tmp_path / kind
        assert main(["train", str(text), "--out", str(out), "--time", "1s", *SMALL, *flags]) == 0
        assert f"/s here in {kind}" in capsys.readouterr().err.splitlines()[3]
        assert RunFolder(out).config().run.dtype == kind
