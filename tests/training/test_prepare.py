"""Errors that are found before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.runs import checkpoint
from microgpt.training.train import train
from tests.training.runs import small


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        (["train", "poems.txt", "--rope-base", "500"], "--rope-base"),
        (["train", "poems.txt", "--tokenizer", "bpe.json", "--vocab-size", "400"], "--vocab-size"),
        (["train", "poems.txt", "--tokenizer", "bpe.json", "--bpe-merges", "0"], "--bpe-merges"),
        (["finetune", "base", "--data", "poems.txt", "--lora-alpha", "4"], "--lora-alpha"),
    ],
    ids=" ".join,
)
def test_an_option_without_effect_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], idle: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poems.txt").write_text("emma olivia\n", encoding="utf-8")
    train(small(tmp_path, steps=1), "base")
    (tmp_path / "bpe.json").write_bytes(checkpoint.read(Path("base")).tokenizer.to_json())
    assert main([*flags, "--out", "run"]) == 2
    assert capsys.readouterr().err.startswith(f"microgpt: {idle}: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "ways",
    [
        ["poems.txt", "--data", "other.txt"],
        ["poems.txt", "--dataset", "names"],
        ["poems.txt", "--urls", "https://example.org"],
        ["--data", "poems.txt", "--dataset", "names"],
        ["names", "--data", "poems.txt", "--urls", "https://example.org"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("resume", [False, True])
def test_one_text_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ways: list[str], resume: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poems.txt").write_text("a rose\n", encoding="utf-8")
    assert main(["train", *ways, *(["--resume"] if resume else []), "--out", "run"]) == 2
    assert "each names the text to train on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
