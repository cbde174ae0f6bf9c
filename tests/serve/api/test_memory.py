"""POST /api/memory: what of a text stands in the training text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from microgpt.config import Data
from microgpt.data import here, verbatim
from microgpt.runs import checkpoint
from microgpt.serve.api import memory
from tests.serve.running import Server


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


def test_pieces(tmp_path: Path) -> None:
    first, second = "the first of all sentences", "a second one to look for"
    (tmp_path / "text.txt").write_text(f"{first}\n{second}\n" * 9)
    data = Data(path=str(tmp_path / "text.txt"))
    text = f"{first[:20]}. {second[1:]}"
    found = memory.look_up(data, text)
    assert [text[piece.start : piece.end] for piece in found.pieces] == [first[:20], second[1:]]
    assert found.longest
    assert (found.longest.before, found.longest.after, found.searched) == ("a", "", len(text))


def test_a_text_that_is_gone_is_not_known(tmp_path: Path) -> None:
    found = memory.look_up(Data(path=str(tmp_path / "text.txt")), "some words")
    assert (found.known, found.whole, found.longest) == (False, None, None)
    assert "text.txt" in found.reason


def test_a_text_that_has_changed_is_read_again(tmp_path: Path) -> None:
    data = Data(path=str(tmp_path / "text.txt"))
    for words in ("one sentence", "another sentence"):
        (tmp_path / "text.txt").write_text(words)
        assert memory.look_up(data, words).whole


def test_a_stand_in_is_searched_for_a_model_that_was_trained_on_it(
    names_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for no other."""
    monkeypatch.setattr(here, "locate", lambda name: None)
    data = Data(dataset="names")
    texts = len(verbatim.training_text(data).texts)
    for documents, known in ((texts, True), (texts + 1, False)):
        saved = SimpleNamespace(state={"data": {"documents": documents}})
        monkeypatch.setattr(checkpoint, "read", lambda path, saved=saved: saved)
        assert memory.look_up(data, "emma", names_run).known == known


def test_a_message_of_a_chat(page_server: Server) -> None:
    found = look_up(page_server, "talk", "a small model")
    assert (found["unit"], found["whole"]["end"]) == ("message", 13)


@pytest.mark.parametrize("text", ["", "x" * 20_000])
def test_the_text_is_bounded(page_server: Server, text: str) -> None:
    assert page_server.post("/api/memory", {"text": text}).status_code == 422
