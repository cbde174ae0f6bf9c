"""Files of conversations: JSONL, one conversation per line, checked message by message.

A line is `[{"role": "user", "content": "…"}, …]` or `{"messages": […]}`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

from microgpt.config import Data
from microgpt.data.documents import REJECTS, Reject, unreadable
from microgpt.data.sources import beginning, find_sources, pieces
from microgpt.errors import DataError, UsageError
from microgpt.json_text import dumps, finite, unique_keys

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str


Conversation = list[Message]


class Chats(NamedTuple):
    """Conversations to train on, and notes on the files for the user."""

    conversations: Sequence[Conversation]
    places: list[str]  # file:line of each, where they are held in memory
    source: str
    notes: list[str]
    rejects: list[Reject]  # with skip_bad; otherwise a mistake raises DataError

    @property
    def texts(self) -> list[str]:
        """The contents of all messages."""
        return [message.content for conversation in self.conversations for message in conversation]

    @property
    def placed(self) -> Iterator[tuple[str, Conversation]]:
        """Each conversation with its place."""
        return zip(self.places, self.conversations, strict=True)


class Found(NamedTuple):
    """Notes on the conversations of a pass, complete at its end, and the lines that skip_bad dropped."""

    notes: list[str]
    rejects: list[Reject]


def is_chat(data: Data) -> bool:
    """Whether a data section holds conversations, by its format or by the first line of its .jsonl file."""
    if data.format != "auto" or not data.path:
        return data.format == "chat"
    first = find_sources(data.path)[0]
    if first.suffix != ".jsonl":
        return False
    return looks_like_chats(beginning(first).decode("utf-8-sig", errors="replace"))


def read_chats(data: Data) -> Chats:
    """The conversations of a data section. Raises UsageError if no file is named, DataError as `parse_chats`."""
    found = Found([], [])
    placed = list(stream_chats(data, found))
    return Chats([talk for _, talk in placed], [place for place, _ in placed], str(data.path), *found)


def short_chats(data: Data, limit: int) -> Chats | None:
    """The same, or None if their messages have more than `limit` characters."""
    found = Found([], [])
    places, conversations = list[str](), list[Conversation]()
    for place, talk in stream_chats(data, found):
        places.append(place)
        conversations.append(talk)
        limit -= sum(len(message.content) for message in talk)
        if limit < 0:
            return None
    return Chats(conversations, places, str(data.path), *found)


def stream_chats(data: Data, found: Found) -> Iterator[tuple[str, Conversation]]:
    """Each conversation with its file:line; memory holds a piece of the text. Raises as `read_chats`."""
    if not data.path:
        raise UsageError("no conversations to train on; name a file with --data: JSONL, one conversation per line")
    tally: Counter[str] = Counter()
    for source in find_sources(data.path):
        text = pieces(source, tally, skip_bad=data.skip_bad)
        yield from _parse(_lines(text), source.name, found, data.skip_bad)
    found.notes[:0] = [f"{data.path}: {n:,} {what}" for what, n in tally.items() if n]


def _lines(text: Iterable[str]) -> Iterator[str]:
    """The lines of a text in pieces."""
    begun: list[str] = []
    for piece in text:
        head, *others = piece.split("\n")
        begun.append(head)
        for line in others:
            yield "".join(begun)
            begun = [line]
    yield "".join(begun)


def looks_like_chats(text: str) -> bool:
    """Whether the first line that is not blank is a conversation, well-formed or nearly."""
    first = next((line.strip() for line in text.split("\n", 100) if line.strip()), "")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return first.startswith("[{") and '"role"' in first
    if isinstance(value, dict):
        return "messages" in value
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def parse_chats(text: str, where: str, *, skip_bad: bool = False) -> Chats:
    """The conversations of a file that have an answer, each cut after its last one; notes count what was dropped.

    Raises DataError with `where`, the line and the message of a mistake (with `skip_bad` such lines become rejects),
    or if no conversation is left.
    """
    found = Found([], [])
    placed = list(_parse(text.split("\n"), where, found, skip_bad))
    return Chats([talk for _, talk in placed], [place for place, _ in placed], where, *found)


def _parse(lines: Iterable[str], where: str, found: Found, skip_bad: bool) -> Iterator[tuple[str, Conversation]]:
    tally: Counter[str] = Counter()
    n_kept = n_rejected = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{where}:{number}"
        try:
            if why := unreadable(line):
                raise DataError(f"{place}: {why}")
            messages = check_messages(_messages(line, place), place)
        except DataError as error:
            if not skip_bad:
                raise DataError(f"{error}; --skip-bad of microgpt train drops such lines") from None
            found.rejects.append(Reject.of(where, number, str(error).removeprefix(f"{place}: "), line))
            n_rejected += 1
            continue
        kept = until_last_answer(messages)
        tally["cut after the last answer"] += 0 < len(kept) < len(messages)
        tally["dropped: no answer"] += bool(messages) and not kept
        tally["dropped: no message"] += not messages
        if kept:
            n_kept += 1
            yield place, kept
    if not n_kept:
        raise DataError(f"{where}: no conversation with an answer in it; expected one per line, as JSON")
    found.notes.extend(f"{where}: {n:,} conversation{'' if n == 1 else 's'} {what}" for what, n in tally.items() if n)
    if n_rejected:
        found.notes.append(f"{where}: {REJECTS}: {n_rejected:,}")


def until_last_answer(messages: Conversation) -> Conversation:
    """A conversation without the turns after its last answer; empty if there is no answer."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    return messages[: answers[-1] + 1] if answers else []


def check_messages(given: Any, where: str) -> Conversation:
    """A list of {role, content} as messages. Raises DataError with `where` and the message's number from 1."""
    if not isinstance(given, list):
        raise DataError(f"{where}: expected a list of messages, got {_sketch(given)}")
    return [_message(message, f"{where}: message {n}") for n, message in enumerate(given, start=1)]


def _message(given: Any, where: str) -> Message:
    if not isinstance(given, dict):
        raise DataError(f'{where}: expected {{"role": …, "content": …}}, got {_sketch(given)}')
    for key in ("role", "content"):
        if key not in given:
            raise DataError(f"{where}: {key} is missing")
    role, content = given["role"], given["content"]
    if role not in ROLES:
        raise DataError(f"{where}: role {_sketch(role)}; expected {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    if not isinstance(content, str):
        raise DataError(f"{where}: content must be a text, got {_sketch(content)}")
    if not content.strip():
        raise DataError(f"{where}: content is empty; remove the message, or give it a text")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: character {error.start + 1} is half a surrogate pair, which no text holds") from None
    return Message(cast(Role, role), content)


def _messages(line: str, where: str) -> Any:
    try:
        value = json.loads(line, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON at column {error.colno} ({error.msg}); expected one conversation per line"
        ) from None
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); expected one conversation per line") from None
    except RecursionError:
        raise DataError(f"{where}: JSON nested too deeply; expected one conversation per line") from None
    if isinstance(value, dict):
        if "messages" not in value:
            raise DataError(f"{where}: an object without messages; expected a list of messages")
        return value["messages"]
    return value


def _sketch(value: Any) -> str:
    text = dumps(finite(value), default=str)
    return text if len(text) <= 40 else text[:37] + "…"
