"""A reply as server-sent events."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

from pydantic import BaseModel

from microgpt import json_text
from microgpt.serve.errors import ApiError, Dialect, internal_error
from microgpt.serve.generation import Event, Finished
from microgpt.serve.openai.choices import Choice, Piece, pieces
from microgpt.serve.openai.shapes import usage_of
from microgpt.serve.reply import Reply
from microgpt.serve.routes import event

Chunk = BaseModel | bytes
"""A shape to be sent as an event, or an event."""

Chunks = Callable[[Sequence[tuple[int, Event]]], Iterable[Chunk]]
"""The chunks of the events of a reply that have come since the last call."""

MARK = "the text of a template"


class Template:
    """The event of a shape whose last MARK is another text each time: the JSON around it is made once."""

    def __init__(self, shape: BaseModel) -> None:
        self._before, _, self._after = event(shape.model_dump_json().encode()).rpartition(f'"{MARK}"'.encode())

    def fill(self, text: str) -> bytes:
        """The event with a text in its place."""
        return self._before + _quoted(text) + self._after


@functools.lru_cache(4096)
def _quoted(text: str) -> bytes:
    """A text as JSON; those of tokens come again and again."""
    return json_text.dumps(text).encode()


def chunks_of(
    choices: Sequence[Choice],
    chunk_of: Callable[[Piece], BaseModel],
    blank: BaseModel,
    n: int,
    *,
    include_usage: bool,
    logprobs: bool,
    opening: Callable[[int], BaseModel] | None = None,
) -> Chunks:
    """The pieces of all choices, n per prompt, each as `chunk_of` shapes it, after the `opening` of its choice.

    The usage comes last, with the last end or, if asked for, in an event of its own: `blank`, which has no choices.
    """
    templates = [Template(chunk_of(Piece(i, MARK))) for i in range(len(choices))]
    begun: set[int] = set()
    ends: dict[int, Finished] = {}

    def chunks(events: Sequence[tuple[int, Event]]) -> Iterator[Chunk]:
        for piece in pieces(events, choices):
            if opening and piece.number not in begun:
                begun.add(piece.number)
                yield opening(piece.number)
            if not piece.end and not logprobs:
                yield templates[piece.number].fill(piece.text)
                continue
            if piece.end:
                ends[piece.number] = piece.end
            chunk = chunk_of(piece)
            if len(ends) < len(choices):
                yield chunk
                continue
            if include_usage:
                yield chunk
                chunk = blank
            yield chunk.model_copy(update={"usage": usage_of([ends[i] for i in range(len(choices))], n)})

    return chunks


class ReplyStream(AsyncIterator[bytes]):
    """The events of a reply, those that come together as one piece; an error is the last one. Closed, it closes the
    reply, begun or not. `opening` comes first.
    """

    def __init__(
        self,
        reply: Reply,
        chunks: Chunks,
        *,
        opening: Iterable[Chunk] = (),
        done: bool = True,
        named: bool = False,
        dialect: Dialect = Dialect.OPENAI,
    ) -> None:
        self._reply = reply
        self._chunks, self._opening = chunks, opening
        self._done, self._named, self._dialect = done, named, dialect
        self._events = self._told()

    async def __anext__(self) -> bytes:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Stop the texts that are still being generated."""
        self._reply.close()
        await self._events.aclose()  # type: ignore[attr-defined]

    async def _told(self) -> AsyncIterator[bytes]:
        try:
            if opening := self._joined(self._opening):
                yield opening
            async for events in self._reply.batches():
                if told := self._joined(self._chunks(events)):
                    yield told
        except Exception as error:
            refused = error if isinstance(error, ApiError) else internal_error("a stream")
            yield _event(self._dialect.value.model_validate(self._dialect.render(refused)), self._named)
            return
        if self._done:
            yield event(b"[DONE]")

    def _joined(self, chunks: Iterable[Chunk]) -> bytes:
        return b"".join([chunk if isinstance(chunk, bytes) else _event(chunk, self._named) for chunk in chunks])


def _event(shape: BaseModel, named: bool) -> bytes:
    """One event; `named` tells its type in a line of its own, too."""
    line = f"event: {getattr(shape, 'type', 'error')}\n".encode() if named else b""
    return line + event(shape.model_dump_json().encode())
