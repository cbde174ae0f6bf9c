"""`microgpt chat` with a prompt."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from microgpt.cli import main


@pytest.mark.parametrize(
    ("words", "typed", "status", "said"),
    [
        (["-p", "-"], "hi\n", 0, "hello there\n"),
        (["--prompt", "-"], "hi\n", 0, "hello there\n"),
        (["-p", "-"], " \n", 2, "--prompt: is empty"),
        (["-p", "-1 plus 2"], "", 3, "character '-' at position 1"),
    ],
)
def test_a_prompt_that_begins_with_a_hyphen(
    chat_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], typed: str, status: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["chat", str(chat_run), "--temperature", "0", *words]) == status
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
