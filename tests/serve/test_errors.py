"""Errors that are none of the client's: it is told a number, the log the rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from microgpt.serve.app import Endpoint
from microgpt.serve.errors import Dialect
from microgpt.serve.openai.streaming import ReplyStream
from microgpt.serve.protocol import CONNECTION
from microgpt.serve.reply import Reply
from microgpt.serve.routes import Call, Route

SECRET = "of /home/somebody/run"


async def failing(_: Call) -> Any:
    raise ValueError(SECRET)


def answer(endpoint: Endpoint) -> tuple[int, dict[str, Any]]:
    """What a GET is answered."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "GET", "path": "/x", "headers": [], "client": None}
    scope[CONNECTION] = SimpleNamespace(cancels=contextlib.nullcontext)
    asyncio.run(endpoint(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


@pytest.mark.parametrize("dialect", Dialect)
def test_nothing_internal_is_told(dialect: Dialect, caplog: pytest.LogCaptureFixture) -> None:
    service: Any = None
    status, body = answer(Endpoint(service, Route("GET", "/x", failing, "", dialect=dialect)))
    dialect.value.model_validate(body)
    sentence = body["error"] if dialect is Dialect.PLAIN else body["error"]["message"]
    number = re.fullmatch("internal error ([0-9a-f]{8}); the server's log says more", sentence)
    assert number, sentence
    assert status == 500
    assert number[1] in caplog.text
    assert SECRET in caplog.text


def test_a_stream_ends_with_the_error(caplog: pytest.LogCaptureFixture) -> None:
    """And without [DONE]."""
    reply = Reply([], lambda _: None, asked=0, whole=False)
    reply.unfinished = reply._left = 1
    reply._error = ValueError(SECRET)

    async def read() -> list[bytes]:
        return [piece async for piece in ReplyStream(reply, lambda _: [])]

    (last,) = asyncio.run(read())
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error["type"] == "server_error"
    assert SECRET not in error["message"]
    assert SECRET in caplog.text
    assert reply.closed
