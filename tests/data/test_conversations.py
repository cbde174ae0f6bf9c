from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.config import Data
from microgpt.data.conversations import Message, is_chat, looks_like_chats, parse_chats, read_chats
from microgpt.errors import DataError, UsageError

HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}


def file(*lines: Any) -> str:
    return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)


def test_both_forms_of_a_line_and_blank_lines() -> None:
    chats = parse_chats(file([HI, HELLO], "", {"messages": [HI, HELLO], "id": 7}), "f")
    assert chats.conversations == [[Message("user", "hi"), Message("assistant", "hello")]] * 2
    assert chats.places == ["f:1", "f:3"]
    assert chats.notes == []
    assert chats.texts == ["hi", "hello"] * 2


def test_cut_and_left_out_are_counted() -> None:
    chats = parse_chats(file([HI, HELLO, HI], [HI], [], [HI, HELLO], [HI, HELLO, HI, HI]), "f")
    assert [len(c) for c in chats.conversations] == [2, 2, 2]
    assert chats.notes == [
        "f: 2 conversations cut after the last answer",
        "f: 1 conversation dropped: no answer",
        "f: 1 conversation dropped: no message",
    ]


@pytest.mark.parametrize(
    ("line", "where", "what"),
    [
        ("{oops", "f:2", "not JSON at column 2"),
        ("[" * 100_000, "f:2", "nested too deeply"),
        ('{"role": "user", "role": "user"}', "f:2", "twice"),
        ("9" * 5000, "f:2", "not JSON"),
        ({"text": "a"}, "f:2", "without messages"),
        ("3", "f:2", "expected a list of messages, got 3"),
        ([HI, "hello"], "f:2: message 2", "expected"),
        ([HI, {"role": "assistant"}], "f:2: message 2", "content is missing"),
        ([{"content": "x"}, HELLO], "f:2: message 1", "role is missing"),
        ([HI, {"role": "tool", "content": "x"}], "f:2: message 2", 'role "tool"; expected system, user or assistant'),
        ([HI, {"role": ["user"], "content": "x"}], "f:2: message 2", "role"),
        ([HI, {"role": "assistant", "content": None}], "f:2: message 2", "must be a text, got null"),
        ([HI, {"role": "assistant", "content": " \n"}], "f:2: message 2", "content is empty"),
        ('[{"role": "user", "content": "\\ud800"}]', "f:2: message 1", "surrogate"),
    ],
)
def test_a_mistake_is_named_with_its_place(line: Any, where: str, what: str) -> None:
    with pytest.raises(DataError) as error:
        parse_chats(file([HI, HELLO], line), "f")
    assert str(error.value).startswith(where + ":")
    assert what in str(error.value)
    assert "\n" not in str(error.value)
    chats = parse_chats(file([HI, HELLO], line, [HI, HELLO]), "f", skip_bad=True)
    assert chats.places == ["f:1", "f:3"]
    ((name, number, why, shown),) = chats.rejects
    assert (name, number) == ("f", 2)
    assert f"f:2: {why}" in str(error.value)
    assert file(line).startswith(shown)
    assert chats.notes == ["f: rejects dropped (--skip-bad); rejects.jsonl lists them: 1"]


def test_bytes_that_are_no_text_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(file([HI, HELLO]).encode() + b'\n[{"role": "user", "content": "\xff"}]\n')
    with pytest.raises(DataError, match=r"c\.jsonl:2:\d+: byte 0xff is not UTF-8"):
        read_chats(Data(path=str(path)))
    chats = read_chats(Data(path=str(path), skip_bad=True))
    assert chats.places == [f"{path}:1"]
    assert [(reject.line, reject.why) for reject in chats.rejects] == [(2, "byte 0xff is not UTF-8 at character 31")]


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no conversation with an answer"):
        parse_chats(file([HI]), "f")
    with pytest.raises(UsageError, match="--data"):
        read_chats(Data(format="chat"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n" + file([HI, HELLO]), True),
        (file({"messages": []}), True),
        ('[{"role": "user", "content": "cut sho', True),
        (file({"text": "a document"}), False),
        ("em\nolivia\n", False),
        (file([1, 2]), False),
        ("", False),
    ],
)
def test_detected_by_content(text: str, expected: bool) -> None:
    assert looks_like_chats(text) is expected


def test_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + file([HI, HELLO]).encode() + b"\r\n")
    assert is_chat(Data(path=str(path)))
    assert not is_chat(Data(path=str(path), format="lines"))
    chats = read_chats(Data(path=str(path)))
    assert len(chats.conversations) == 1
    assert any("byte order mark" in note for note in chats.notes)
