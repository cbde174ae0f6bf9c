"""muchq's routes, byte for byte, and the law of seeds: a reply is the terminal's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microgpt.cli import main
from tests.serve.running import Server


def test_health(server: Server) -> None:
    answer = server.get("/health")
    assert (answer.status_code, answer.text) == (200, "Ok")


def test_samples_are_the_terminals(names_server: Server, names_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = names_server.post("/microgpt/v1/generate", {"num_samples": 3, "temperature": 0.9, "seed": 7})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["samples"]
    capsys.readouterr()
    for i, text in enumerate(answer.json()["samples"]):
        main(["generate", str(names_run), "--seed", str(7 + i), "-n", "1", "--temperature", "0.9"])
        assert capsys.readouterr().out == text + "\n"


def test_a_chat_is_the_terminals(server: Server, chat_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = server.post("/microgpt/v1/chat", {"messages": [{"role": "user", "content": "how are you"}], "seed": 3})
    capsys.readouterr()
    main(["chat", str(chat_run), "-p", "how are you", "--seed", "3", "--temperature", "0.5", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert list(answer.json().items()) == [(key, told[key]) for key in ("role", "content", "tokens_dropped")]
