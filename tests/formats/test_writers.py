"""Where exports and tokenizers go: a name that somebody took meanwhile stays theirs, and the advice fits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from microgpt import files, formats
from microgpt.cli import main
from microgpt.commands import tokenizer as tokenizer_command
from microgpt.formats import FORMATS, export
from tests.formats.conftest import KGX, MODERN, Build

MODELS = {"kgx": KGX, "moonbase": KGX | {"activation": "relu"}, "hf": MODERN, "gguf": MODERN}


@pytest.mark.parametrize("to", FORMATS)
def test_of_two_exports_to_one_name_the_second_is_refused(
    build: Build, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one appears after the second looked whether the name is free."""
    if needed := FORMATS[to].requires:
        pytest.importorskip(needed)
    run, out = build(**MODELS.get(to, {})), tmp_path / "out"
    real = formats.exporter

    def slow(name: str) -> formats.Exporter:
        monkeypatch.setattr(formats, "exporter", real)
        module = real(name)

        class Second:
            @staticmethod
            def write(job: formats.ExportJob, path: Path) -> list[str]:
                export(run, to, out)
                return module.write(job, path)

        return Second()

    monkeypatch.setattr(formats, "exporter", slow)
    assert main(["export", str(run), "--to", to, "--out", str(out), "--no-quality"]) == 2
    assert capsys.readouterr().err == f"microgpt: {out}: exists already; name another file or folder with --out\n"
    assert not list(tmp_path.glob(f"{files.TEMPORARY}*"))


def test_of_two_tokenizers_to_one_name_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "t.json"
    text.write_text("abc\n")
    real = tokenizer_command.tokenizers.train

    def slow(*args: object, **options: object) -> object:
        out.write_text("first")
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenizer_command.tokenizers, "train", slow)
    assert main(["tokenizer", "train", str(text), "--kind", "char", "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"microgpt: {out}: exists already; name another file or folder with --out\n"
    assert out.read_text() == "first"


@pytest.mark.parametrize("to", ["kgx", "safetensors", "tokenizer"])
def test_a_full_disk_is_said_with_advice_that_fits(
    build: Build, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = build(**KGX), tmp_path / "out"
    (tmp_path / "a.txt").write_text("abc\n")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "write_new", full)
    command = ["tokenizer", "train", str(tmp_path / "a.txt")] if to == "tokenizer" else ["export", str(run), "--to", to]
    assert main([*command, "--out", str(out)]) == 5
    assert capsys.readouterr().err.endswith("No space left on device); free some space and run the command again\n")
