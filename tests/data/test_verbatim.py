"""Pieces of a text in the training text, against the definition."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from microgpt.config import Data
from microgpt.data import here, verbatim
from microgpt.data.verbatim import TrainingText, training_text
from microgpt.errors import DataError


def text(*documents: str) -> TrainingText:
    return TrainingText("here", documents, frozenset(), "document")


def longest_pieces(given: str, documents: tuple[str, ...], least: int) -> list[tuple[int, int]]:
    """All pieces in any document that are not within another one."""
    n = len(given)
    there = [
        (a, b) for a in range(n) for b in range(a + 1, n + 1) if any(given[a:b] in document for document in documents)
    ]
    return [
        (a, b) for a, b in there if b - a >= least and not any(c <= a and b <= d and (a, b) != (c, d) for c, d in there)
    ]


def test_pieces_are_those_of_the_definition() -> None:
    rng = Random(1)
    for _ in range(200):
        documents = tuple("".join(rng.choices("ab", k=rng.randrange(12))) for _ in range(4))
        given = "".join(rng.choices("abc", k=rng.randrange(20)))
        found, searched = text(*documents).matches(given, 2, 60)
        assert searched == len(given)
        assert [(match.start, match.end) for match in found] == longest_pieces(given, documents, 2)
        for start, end, place in found:
            assert text(*documents).joined[place : place + end - start] == given[start:end]


def test_places() -> None:
    known = text("one", "two words", "", "three")
    place = known.joined.index("words")
    assert known.document(place) == 1
    assert known.around(place, 3) == ("two ", "ds")
    assert [known.document(known.joined.index(each)) for each in ("one", "two", "three")] == [0, 1, 3]
    assert known.whole("three") == known.joined.index("three")
    assert known.whole("thre") is known.whole("") is None


def test_time_is_bounded() -> None:
    assert text("abc").matches("abc", 1, -1.0) == ([], 0)


def test_held_out_documents_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"name{i}" for i in range(20)))
    data = Data(path=str(tmp_path / "a.txt"), val_fraction=0.25, val_split="end")
    assert sorted(training_text(data).held_out) == [15, 16, 17, 18, 19]
    assert not training_text(Data(path=str(tmp_path / "a.txt"))).held_out


def test_a_text_that_is_too_long_or_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("words\n" * 10)
    monkeypatch.setattr(verbatim, "MOST_CHARS", 49)
    with pytest.raises(DataError, match="more than 49 characters"):
        training_text(Data(path=str(tmp_path / "a.txt")))
    monkeypatch.setattr(verbatim, "MOST_BYTES", 59)
    monkeypatch.setattr(verbatim, "read_documents", None)  # it is not read
    with pytest.raises(DataError, match="more than 49 characters"):
        training_text(Data(path=str(tmp_path / "a.txt")))
    monkeypatch.setattr(here, "locate", lambda name: None)
    with pytest.raises(DataError, match="the data set alice is not on this machine"):
        training_text(Data(dataset="alice"))
