"""docs/usage.md: every command has an example there, and every example works."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from microgpt.cli import app, main

PAGE = Path(__file__).parents[1] / "docs" / "usage.md"
EXAMPLES = [shlex.split(found)[1:] for found in re.findall(r"^\| `(microgpt [^`]+)` \|", PAGE.read_text("utf-8"), re.M)]
PARSED_ONLY = (
    "doctor",
    "bench",
    "data fetch",
    "serve",
    "sweep",
    "scaling",
)  # slow, endless, or of the machine and the network
NEEDS = {"gguf": "gguf", "onnx": "onnx"}


def test_every_command_has_an_example() -> None:
    commands = {name for name in app if not name.startswith("-")} - {"sample"}
    assert commands == {words[0] for words in EXAMPLES}


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_every_example_is_understood(words: list[str]) -> None:
    app.parse_args(words, exit_on_error=False, print_error=False)


def test_the_examples_work_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poems.txt").write_text("a rose is a rose\nis a text\n" * 20)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}]
    (tmp_path / "chats.jsonl").write_text(f"{json.dumps(talk)}\n" * 20)
    for words in EXAMPLES:
        line = " ".join(words)
        if line.startswith(PARSED_ONLY):
            continue
        needed = NEEDS.get(words[words.index("--to") + 1] if "--to" in words else "")
        if needed and not importlib.util.find_spec(needed):
            continue
        typed = {"chat": "hi\n/quit\n"}.get(words[0], "1 2" if "decode" in words else "a rose")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        assert main(words) == 0, f"{line}: {capsys.readouterr().err}"
    assert json.loads((tmp_path / "runs/poems/checkpoints/step-00000260/config.json").read_text())
    assert (tmp_path / "chat-back").is_dir()
