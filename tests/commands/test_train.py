"""microgpt train and finetune: their flags, a short plan, and the whole configuration on demand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.commands import progress
from microgpt.commands.train import seconds
from microgpt.config import Config
from microgpt.errors import UsageError
from microgpt.model import n_params
from microgpt.scenarios import SIZES
from tests.chats import conversations, talks, write  # noqa: F401

LABELS = ["data", "model", "engine", "steps", "folder"]
QUICK = ["--steps", "1", "--engine", "manual", "--samples", "0"]


def plan(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a training prints before its first step."""
    assert main([*words, *QUICK]) == 0
    lines = capsys.readouterr().err.splitlines()
    return lines[: next(i for i, line in enumerate(lines) if line.startswith(("step ", "saved ", "resumed ")))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two texts, one of which needs several notes and has a long path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poems.txt").write_text("a rose is a rose\nis a text\n" * 20, encoding="utf-8")
    deep = tmp_path / "a-folder-with-a-long-name" / "and-another-one-within-it" / "and-a-third-one"
    deep.mkdir(parents=True)
    lines = ["a rose", "", "a rose", "is", "\ufeffa rose  ", "b\rc", "x" * 3000] * 9
    (deep / "many-notes.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_the_plan_is_a_few_short_lines(here: Path, talks: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    deep = next(here.glob("*/*/*/*.txt"))
    for words in (
        ["poems.txt", "--out", "runs/poems"],
        ["poems.txt", "--val-fraction", "0.2"],
        [str(deep), "--out", str(deep.parent / "run")],
        ["chat", "--data", str(talks), "--vocab-size", "300", "--block-size", "64", "--out", "runs/chat"],
        ["poems.txt", "--resume", "--out", "runs/poems"],
    ):
        lines = plan(["train", *words], capsys)
        assert len(lines) <= 7, lines
        assert all(len(line) <= 100 for line in lines), lines
        labels = [line.split()[0] for line in lines]
        assert [label for label in labels if label != "note"] == LABELS
        assert any("held out" in line for line in lines) == ("--val-fraction" in words or "chat" in words)
    assert lines[-1] == "folder  runs/poems"
    lines = plan(["finetune", "runs/chat", "--data", str(talks), "--replay", "0.2"], capsys)
    assert len(lines) <= 7, lines
    assert lines[-4] == "base    runs/chat: all weights, 20% of the rows replayed"


def test_the_plan_of_names(real_data: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real_data("names")
    lines = plan(["train", "names"], capsys)
    assert len(lines) <= 7, lines
    assert all(len(line) <= 100 for line in lines), lines
    assert lines[-4] == "model   classic, 4,192 parameters: 1 layer, 16 wide, 4 heads, context 16"


def test_a_line_that_is_too_long_keeps_the_end_of_its_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = next(here.glob("*/*/*/*.txt"))
    lines = plan(["train", str(deep), "--out", str(deep.parent / "run")], capsys)
    data = next(line for line in lines if line.startswith("data "))
    assert "many-notes.txt: 63 documents" in data
    assert lines[-1].startswith("folder  …")
    assert lines[-1].endswith("and-a-third-one/run")


def test_verbose_prints_the_whole_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = plan(["train", "poems.txt", "--out", "runs/a"], capsys)
    assert not any("rope_base" in line for line in short)
    long = plan(["train", "poems.txt", "--verbose", "--out", "runs/b"], capsys)
    text = "\n".join(long)
    for section in ("model", "optim", "data", "run"):
        assert f"[{section}] " in text
    assert "rope_base=10000.0" in text
    assert "steps=1 " in text
    assert len(long) > progress.PLAN_LINES


def test_lengths_of_time() -> None:
    assert [seconds(t) for t in ("90", "90s", "1.5", "30m", "1h30m", "1d")] == [90, 90, 1.5, 1800, 5400, 86400]
    for bad in ("", "soon", "0", "1h30x", "-5"):
        with pytest.raises(UsageError, match="--max-time"):
            seconds(bad)


def test_notes_share_lines_and_those_that_do_not_fit_are_counted() -> None:
    short, long = "b" * 40, "c" * 89
    assert progress._packed([short, short, long], 2) == [f"note    {short}; {short}", f"note    {long}"]
    assert progress._packed([long, short, short, long], 2) == [
        f"note    {long}",
        "note    3 more about the data: --verbose prints them",
    ]


def test_a_run_toml_is_a_configuration_not_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, first, again = tmp_path / "a.txt", tmp_path / "first", tmp_path / "again"
    text.write_text("em\nemma\nolivia\nava\n" * 5)
    flags = ["--samples", "0", "--engine", "manual"]
    assert main(["train", str(text), "--steps", "4", *flags, "--out", str(first)]) == 0
    assert main(["train", str(first / "run.toml"), "--out", str(again)]) == 0
    assert (again / "run.toml").read_bytes() == (first / "run.toml").read_bytes()
    assert (
        main(["train", str(first / "run.toml"), "--steps", "5", "--data", str(text), "--out", str(tmp_path / "5")]) == 0
    )
    capsys.readouterr()
    other = tmp_path / "other.toml"
    for content, words, status, sentence in (
        ("[run]\nstep = 5\n", [], 2, "run.step: there is no such key; did you mean steps"),
        ("[run\n", [], 2, f"--data {other} trains on it as text"),
        ("[run]\nsteps = 5\n", ["--config", "b.toml"], 2, "two configurations; leave one out"),
        ("[run]\nsteps = 5\n", ["--resume"], 2, f"SOURCE {other}: a resumed run has its run.toml"),
        ("[package]\nname = 'x'\n", ["--steps", "1", *flags, "--out", str(tmp_path / "text")], 0, "2 documents"),
    ):
        other.write_text(content)
        assert main(["train", str(other), *words]) == status
        said = capsys.readouterr().err
        assert sentence in said
        assert status == 0 or said.count("\n") == 1


def test_the_help_of_size_has_the_parameters_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, layer in SIZES.items():
        count = n_params(Config.from_dict(layer).with_vocab(65).model)
        rounded = f"{count / 1e3:.0f} K" if count < 1e5 else f"{count / 1e6:.{1 if count < 1e7 else 0}f} M"
        assert re.search(rf"{name} \({rounded}( parameters)?; [^)]*(second|s|min)\b", said), name
