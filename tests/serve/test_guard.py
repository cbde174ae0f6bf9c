"""The gate without a server. test_process.py and test_hostile.py ask a server."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Any

import pytest

from microgpt.serve import guard
from microgpt.serve.guard import Guard

KEY = "a-key"


def status(authorization: bytes, host: bytes = b"127.0.0.1:80", *origins: bytes, path: str = "/") -> int:
    """The status of a request with these headers, asked of a guard with a key."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", host), (b"authorization", authorization), *((b"origin", origin) for origin in origins)]
    scope = {"type": "http", "method": "GET", "path": path, "scheme": "http", "server": ("127.0.0.1", 80)}
    gate = Guard(app, host="127.0.0.1", origins=[], api_key=KEY, public=["/health"])
    asyncio.run(gate({**scope, "headers": headers}, None, send))  # type: ignore[arg-type, typeddict-item]
    return int(sent[0]["status"])


@pytest.mark.parametrize("verdict", [False, True])
def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, verdict: bool) -> None:
    """By hmac.compare_digest alone: whatever it says of two keys is done, and it is given the keys as they are."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return verdict

    assert guard.hmac is hmac
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (KEY, "b-key", "a", ""):
        assert status(b"Bearer " + given.encode()) == (200 if verdict else 401)
        assert compared.pop() == (given.encode(), KEY.encode())
        assert not compared


def test_who_is_let_in() -> None:
    key = f"Bearer {KEY}".encode()
    assert status(key) == 200
    assert status(b"") == 401
    assert status(b"", path="/health") == 200
    assert status(key, b"rebound.example:80") == 403
    assert status(key, b"127.0.0.1:80", b"http://127.0.0.1:80") == 200
    for origins in ([b"https://page.example"], [b"null"], [b"http://127.0.0.1:81"], [b"http://127.0.0.1:80"] * 2):
        assert status(key, b"127.0.0.1:80", *origins) == 403
