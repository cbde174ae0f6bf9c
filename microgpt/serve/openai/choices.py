"""Events of a reply → pieces of its choices, the same for a joined answer and a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from microgpt.serve.generation import Event, Finished, FinishReason, Scored, Token
from microgpt.serve.reply import Reply
from microgpt.tokenizers import Tokenizer
from microgpt.tokenizers.base import Base


@dataclass(frozen=True, slots=True)
class Spelled:
    """A token as text. `bytes` is None for a special token, which has no text."""

    text: str
    bytes: bytes | None
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Entry(Spelled):
    """A token of a choice, with the likeliest tokens in its place and where it begins in the choice's text."""

    top: Sequence[Spelled]
    offset: int


@dataclass(slots=True)
class Piece:
    """A part of a choice: the last one has the reason of its end."""

    number: int
    text: str
    entries: list[Entry] = field(default_factory=list)
    end: Finished | None = None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the choice ended, in its last piece."""
        return self.end.reason if self.end else None


class Speller:
    """Tokens one after another as text: a tokenizer may put a space between two of them."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        self._tokenizer = cast(Base, tokenizer)
        self._stream = tokenizer.stream()
        self._last: int | None = None
        self._offset = offset  # of the next token

    def feed(self, event: Scored | Token) -> Entry:
        """The next token."""
        text, data, _ = self._spell(event.id, None)
        top = [Spelled(*self._spell(token, logprob)) for token, logprob in event.top]
        entry = Entry(text, data, event.logprob, top, self._offset)
        self._offset += len(self._stream.feed([event.id]))
        self._last = event.id
        return entry

    def _spell(self, token: int, logprob: float | None) -> tuple[str, bytes | None, float | None]:
        return *spell(self._tokenizer, self._last, token), logprob


def spell(tokenizer: Base, last: int | None, token: int) -> tuple[str, bytes | None]:
    """A token's text and bytes after the `last` one; a special token has no bytes but a name."""
    if token >= tokenizer.n_vocab:
        return tokenizer.token(token), None
    data = tokenizer.pieces[token]
    if tokenizer.glue and last is not None and last < tokenizer.n_vocab:
        data = tokenizer.glue(last, token) + data
    try:
        return data.decode(), data
    except UnicodeDecodeError:  # a part of a character, written as OpenAI does
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data


class Choice:
    """A choice under way: with `echo` its text begins with the prompt's."""

    def __init__(self, number: int, tokenizer: Tokenizer, *, logprobs: bool, echo: str | None = None) -> None:
        self._number, self._logprobs, self._echo = number, logprobs, echo
        self._tokenizer = tokenizer
        self._prompt = Speller(tokenizer)
        self._answer = Speller(tokenizer, len(echo or ""))
        self._scored: list[Entry] = []  # of the prompt
        self._empty = True

    def take(self, event: Event) -> list[Piece]:
        """The pieces that an event completes."""
        if isinstance(event, Scored):
            self._scored.append(self._prompt.feed(event))
            return []
        pieces = []
        if self._echo is not None:
            pieces.append(Piece(self._number, self._echo, self._scored))
            self._echo = None
        if isinstance(event, Token):
            entries = [self._answer.feed(event)] if self._logprobs else []
            self._empty = False
            return [*pieces, Piece(self._number, event.text, entries)]
        # Who scores a prompt asks for one token and leaves out the last one of the list: it is there in any case.
        last = [self._answer.feed(event.ending)] if event.ending and self._empty and self._scored else []
        return [*pieces, Piece(self._number, event.text, last, event)]


def pieces(events: Iterable[tuple[int, Event]], choices: Sequence[Choice]) -> Iterator[Piece]:
    """The pieces of choices that events of their reply complete."""
    for number, event in events:
        yield from choices[number].take(event)


@dataclass(slots=True)
class Whole:
    """A choice from its beginning to its end."""

    text: str
    entries: list[Entry]
    end: Finished


async def read(reply: Reply, choices: Sequence[Choice]) -> list[Whole]:
    """All choices, in the order of their numbers. Raises ApiError."""
    texts: list[list[str]] = [[] for _ in choices]
    entries: list[list[Entry]] = [[] for _ in choices]
    ends: dict[int, Finished] = {}
    async with reply:
        async for events in reply.batches():
            for piece in pieces(events, choices):
                texts[piece.number].append(piece.text)
                entries[piece.number] += piece.entries
                if piece.end:
                    ends[piece.number] = piece.end
    return [Whole("".join(text), entries[i], ends[i]) for i, text in enumerate(texts)]
