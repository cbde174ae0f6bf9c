"""Routes: a handler with the shapes of its body and its answer, from which parsing, errors and /openapi.json follow."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from microgpt.serve.errors import ApiError, Dialect
from microgpt.serve.service import Service


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose body was read and checked."""

    service: Service
    request: Request
    body: Any  # an instance of the route's body, None if it has none
    client: str  # whom the scheduler is fair to


Handler = Callable[[Call], Awaitable[BaseModel | Response]]
Refusal = Callable[[list[Any]], ApiError]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and path. A handler returns its answer, or a response of its own; it may raise ApiError."""

    method: str
    path: str
    handler: Handler
    summary: str
    dialect: Dialect = Dialect.PLAIN
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None  # None: text
    events: tuple[type[BaseModel], ...] = ()  # the shapes in a stream, if it may answer with server-sent events
    done: bool = True  # whether a stream ends with [DONE]
    refuse: Refusal | None = None  # an error for pydantic's; None: by dialect
    statuses: Mapping[int, str] = field(default_factory=dict)  # further ones, for /openapi.json
    public: bool = False  # whether it answers without the API key
    media: str = "application/json"

    @property
    def shown(self) -> str:
        """The path in documents, metrics and the log: {id:path} is shown as {id}."""
        return re.sub(r":\w+}", "}", self.path)


class Events(Response):
    """Server-sent events. The chunks are whole events; when the client leaves, the iterator is closed."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.status_code, self.background, self.body = 200, None, b""
        self.chunks = chunks
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await self.chunks.aclose()  # type: ignore[attr-defined]
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"
