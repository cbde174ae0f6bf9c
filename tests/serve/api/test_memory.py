"""POST /api/memory: what of a text stands in the training text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from microgpt.config import Config
from microgpt.training.train import train
from tests.serve.running import Server, serving


def look_up(server: Server, model: str, text: str) -> dict[str, Any]:
    answer = server.post("/api/memory", {"model": model, "text": text})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_whole_document(page_server: Server) -> None:
    found = look_up(page_server, "names", " emma\n")
    assert found["known"]
    assert found["source"].endswith("names.txt")
    assert (found["whole"]["start"], found["whole"]["end"]) == (1, 5)
    assert found["whole"]["document"] == 2
    assert look_up(page_server, "names", "emm")["whole"] is None


def test_the_longest_piece(page_server: Server) -> None:
    found = look_up(page_server, "names", "xoliviax")
    assert found["whole"] is None
    longest = found["longest"]
    assert (longest["start"], longest["end"], longest["before"], longest["after"]) == (1, 7, "", "")
    assert found["times"] == 10
    assert look_up(page_server, "names", "zzz")["longest"] is None


def test_pieces_of_a_chat(page_server: Server) -> None:
    found = look_up(page_server, "talk", "a small model, hello there")
    assert found["unit"] == "message"
    assert ["a small model, hello there"[piece["start"] : piece["end"]] for piece in found["pieces"]] == [
        "a small model",
        "hello there",
    ]


def test_a_text_that_is_gone_is_not_known(names_run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some words\n" * 20)
    config = Config.from_dict({"data": {"path": str(tmp_path / "text.txt")}, "run": {"steps": 1, "samples": 0}})
    train(config, tmp_path / "run")
    (tmp_path / "text.txt").unlink()
    with serving(tmp_path / "run", log=tmp_path / "log") as server:
        found = server.post("/api/memory", {"text": "some words"}).json()
    assert (found["known"], found["whole"], found["longest"]) == (False, None, None)
    assert "text.txt" in found["reason"]


@pytest.mark.parametrize("text", ["", "x" * 20_000])
def test_the_text_is_bounded(page_server: Server, text: str) -> None:
    assert page_server.post("/api/memory", {"text": text}).status_code == 422
