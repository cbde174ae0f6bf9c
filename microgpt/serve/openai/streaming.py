"""A reply as server-sent events."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

from pydantic import BaseModel

from microgpt import json_text
from microgpt.serve.errors import ApiError, Dialect, internal_error
from microgpt.serve.reply import Reply
from microgpt.serve.routes import event

Chunk = BaseModel | bytes
"""A shape to be sent as an event, or an event."""

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


class ReplyStream(AsyncIterator[bytes]):
    """The events of a reply; an error is the last one. Closed, it closes the reply, begun or not."""

    def __init__(
        self,
        reply: Reply,
        shapes: AsyncIterator[Chunk],
        *,
        done: bool = True,
        named: bool = False,
        dialect: Dialect = Dialect.OPENAI,
    ) -> None:
        self._reply = reply
        self._events = _events(shapes, done, named, dialect)

    async def __anext__(self) -> bytes:
        return await anext(self._events)

    async def aclose(self) -> None:
        """Stop the texts that are still being generated."""
        self._reply.close()
        await self._events.aclose()  # type: ignore[attr-defined]


async def _events(shapes: AsyncIterator[Chunk], done: bool, named: bool, dialect: Dialect) -> AsyncIterator[bytes]:
    try:
        async for shape in shapes:
            yield shape if isinstance(shape, bytes) else _event(shape, named)
    except Exception as error:
        refused = error if isinstance(error, ApiError) else internal_error("a stream")
        yield _event(dialect.value.model_validate(dialect.render(refused)), named)
        return
    if done:
        yield event(b"[DONE]")


def _event(shape: BaseModel, named: bool) -> bytes:
    """One event; `named` tells its type in a line of its own, too."""
    line = f"event: {getattr(shape, 'type', 'error')}\n".encode() if named else b""
    return line + event(shape.model_dump_json().encode())
