"""/health before and after the first model is loaded, asked for without a server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from microgpt.serve.app import health
from microgpt.serve.routes import Call


@pytest.mark.parametrize(("ready", "status", "text"), [(False, 503, b"loading"), (True, 200, b"Ok")])
def test_it_waits_for_nothing(ready: bool, status: int, text: bytes) -> None:
    service: Any = SimpleNamespace(models=SimpleNamespace(ready=ready))
    answer = asyncio.run(health(Call(service, cast(Any, None), None, "")))
    assert (answer.status_code, answer.body) == (status, text)
