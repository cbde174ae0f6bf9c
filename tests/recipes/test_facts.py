"""Facts about texts: how they are read, and how much there is to learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microgpt.config import Data
from microgpt.errors import DataError
from microgpt.recipes.facts import SAMPLE, Facts, measure

PROSE = (
    "It was a bright cold day in April, and the clocks were striking {n}.\nHe slipped quickly through the doors.\n\n"
)


def facts_of(folder: Path, text: str, name: str = "text.txt", **data: str) -> Facts:
    (folder / name).write_text(text, encoding="utf-8")
    return measure(Data(path=str(folder / name), **data))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("\n".join(["emma", "olivia", "ava", "van der Berg"]), "short lines"),
        ("".join(PROSE.format(n=n) for n in range(30)), "paragraphs"),
        ("\n".join(f"A line of a log that is long enough to say more than a name, {n}" for n in range(40)), "lines"),
        ("One sentence follows another and no line ever ends. " * 60, "chunks"),
        ("".join(PROSE.format(n=n) for n in range(3)), "chunks"),  # too few paragraphs and lines to hold out a tenth
        ("", "short lines"),
    ],
)
def test_kinds(tmp_path: Path, text: str, kind: str) -> None:
    assert facts_of(tmp_path, text).kind == kind


def test_json(tmp_path: Path) -> None:
    talk = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]) + "\n"
    assert facts_of(tmp_path, talk * 3, "talks.jsonl").kind == "chat"
    found = facts_of(tmp_path, json.dumps({"text": "Some text"}) + "\n", "texts.jsonl")
    assert (found.kind, found.documents) == ("jsonl", 1)


def test_a_format_that_is_given_stays(tmp_path: Path) -> None:
    assert facts_of(tmp_path, PROSE * 30, format="lines").kind == "lines"


def test_repeated_text_is_counted_once(tmp_path: Path) -> None:
    once = "".join(PROSE.format(n=n) for n in range(40))
    found = facts_of(tmp_path, once * 4)
    assert 0.75 < found.repeated < 0.95  # the second line of each part is one
    assert found.new_bytes == found.bytes * (1 - found.repeated)
    assert (
        facts_of(tmp_path, "".join(f"Line {n} differs from every other one here.\n" for n in range(99))).repeated == 0
    )


def test_a_long_text_is_sampled(tmp_path: Path) -> None:
    text = "".join(PROSE.format(n=n) for n in range(3 * SAMPLE // len(PROSE)))
    found = facts_of(tmp_path, text)
    assert found.bytes == len(text)
    assert found.documents == pytest.approx(text.count("\n\n"), rel=0.01)


def test_a_folder(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(f"{name} {PROSE.format(n=n)}" for n in range(20)))
    found = measure(Data(path=str(tmp_path)))
    assert (found.kind, found.documents) == ("paragraphs", 40)


def test_a_gutenberg_book(tmp_path: Path) -> None:
    marks = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\n"
    assert facts_of(tmp_path, marks + PROSE * 30).gutenberg
    assert not facts_of(tmp_path, PROSE * 30).gutenberg


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x80\x81 no text")
    with pytest.raises(DataError, match="is not UTF-8"):
        measure(Data(path=str(tmp_path / "a.txt")))
    with pytest.raises(DataError, match="no such file"):
        measure(Data(path=str(tmp_path / "none.txt")))
