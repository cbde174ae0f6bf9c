"""The process: how it starts, what it says, whom it lets in, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from uvicorn.server import ServerState

from microgpt.cli import main
from microgpt.commands.serve import _api_key, _models, _port
from microgpt.serve.protocol import Protocol
from microgpt.serve.server import bind
from tests.serve.hostile import GENERATE, request
from tests.serve.running import Server, answer_of, serving

KEY = "a-key-of-this-test"
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def guarded(names_run: Path, chat_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, an origin, and room for one of its two models."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "key").write_text(KEY + "\n")
    arguments = (names_run, "--model", f"org/chat={chat_run}", "--max-models", "1", "--allow-origin", PAGE)
    with serving(*arguments, "--api-key-file", folder / "key", log=folder / "log") as server:
        yield server


def test_every_route_but_health_asks_for_the_key(guarded: Server) -> None:
    assert guarded.get("/health").status_code == 200
    paths = guarded.client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()["paths"]
    assert len(paths) > 8
    for path, operations in [*paths.items(), ("/nowhere", {"get": {}})]:
        for method in operations:
            for value in (
                None,
                "",
                KEY,
                f"Basic {KEY}",
                f"Bearer {KEY}x",
                f"Bearer {KEY[:-1]}",
                "Bearer",
                "Bearer \xe9",
            ):
                if path == "/health":
                    continue
                headers = {} if value is None else {"Authorization": value.encode("latin-1")}
                answer = guarded.client.request(method, path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (path, value)
                assert answer.json()["error"]
    assert guarded.post(GENERATE, {}, Authorization=f"Bearer {KEY}").status_code == 200


def test_where_the_key_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("of-a-file\n")
    monkeypatch.delenv("MICROGPT_API_KEY", raising=False)
    assert _api_key(None, None) is None
    monkeypatch.setenv("MICROGPT_API_KEY", "of-the-environment")
    assert _api_key(None, None) == "of-the-environment"
    assert _api_key(None, "given") == "given"
    assert _api_key(tmp_path / "key", None) == "of-a-file"


def test_where_the_port_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)
    assert (_port(None), _port(0)) == (8080, 0)
    monkeypatch.setenv("PORT", "9000")
    assert (_port(None), _port(7000)) == (9000, 7000)


def test_where_the_model_comes_from(names_run: Path, chat_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_DIR", raising=False)
    for named in ([], [f"other={chat_run}"]):
        monkeypatch.setenv("MODEL_DIR", str(names_run))
        assert next(iter(_models(None, named)[0].values())) == (names_run,)
        assert next(iter(_models(chat_run, named)[0].values())) == (chat_run,)


def test_pages_that_are_listed_may_ask(guarded: Server) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = guarded.client.options(GENERATE, headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = guarded.post(GENERATE, {}, Origin=PAGE, Authorization=f"Bearer {KEY}")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "Origin" in answer.headers["vary"]
    for origin in ("https://other.example", "null", PAGE + ":444"):
        refused = guarded.client.options(GENERATE, headers=asked | {"Origin": origin})
        assert refused.status_code == 403
        assert not [name for name in refused.headers if name.startswith("access-control")]


def test_models_are_loaded_when_used_and_dropped_for_others(guarded: Server) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}
    names = guarded.client.get("/v1/models", headers=bearer).json()["data"]
    assert [model["id"] for model in names] == ["run", "org/chat"]
    for name in ("run", "org/chat"):
        assert guarded.client.get(f"/v1/models/{name}", headers=bearer).json()["id"] == name
    assert guarded.client.get("/v1/models/chat", headers=bearer).status_code == 404
    texts = []
    for _ in range(3):
        for model in ("run", "org/chat"):
            answer = guarded.post(
                "/v1/completions", {"model": model, "prompt": "e", "seed": 1, "max_tokens": 5}, **bearer
            )
            assert answer.status_code == 200, answer.text
            texts.append(answer.json()["choices"][0]["text"])
    assert texts == texts[:2] * 3
    assert guarded.post("/v1/completions", {"model": "nobody", "prompt": "e"}, **bearer).status_code == 404


def test_metrics_begin_at_zero_and_count(guarded: Server) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}

    def numbers() -> dict[str, float]:
        text = guarded.client.get("/metrics", headers=bearer).text
        return {name: float(value) for name, value in re.findall(r"^(microgpt_\S+) (\S+)$", text, re.MULTILINE)}

    before = numbers()
    of_chat = 'microgpt_requests_total{route="/microgpt/v1/chat",status="422"}'
    assert before[of_chat] == 0
    guarded.post("/microgpt/v1/chat", {}, **bearer)
    guarded.post(GENERATE, {"num_samples": 5, "temperature": 5}, **bearer)
    after = numbers()
    assert after[of_chat] == 1
    of_texts = 'microgpt_requests_total{route="/microgpt/v1/generate",status="200"}'
    assert after[of_texts] == before[of_texts] + 1
    assert after["microgpt_tokens_generated_total"] > before["microgpt_tokens_generated_total"]
    of_generate = 'microgpt_request_duration_seconds_count{route="/microgpt/v1/generate"}'
    for name in ("microgpt_time_to_first_token_seconds_count", of_generate):
        assert after[name] == before[name] + 1
    assert 'microgpt_build_info{version="0.1.0"}' in after


def test_the_log_has_a_line_per_request_and_no_prompt(guarded: Server) -> None:
    guarded.post("/v1/completions", {"prompt": "emma"}, Authorization=f"Bearer {KEY}")
    guarded.get("/nowhere?emma")
    deadline = time.monotonic() + 5
    while '"route": "none"' not in guarded.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    text = guarded.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {"time", "client", "method", "route", "status", "bytes", "ms"} == lines[-1].keys()
    assert "/v1/completions" in {line["route"] for line in lines}
    assert "emma" not in text
    assert KEY not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "serve: RUN is missing"),
        (["RUN", "--host", "0.0.0.0"], "--host 0.0.0.0: other machines could use the service"),
        (["RUN", "--api-key", "k", "--api-key-file", "f"], "give one of them"),
        (["RUN", "--api-key", ""], "--api-key: must be a key"),
        (["RUN", "--api-key", "a b"], "--api-key: must be a key"),
        (["RUN", "--api-key-file", "/nowhere/key"], "--api-key-file /nowhere/key: cannot be read"),
        (["RUN", "--allow-origin", "*"], "--allow-origin *: expected scheme://host"),
        (["RUN", "--allow-origin", "null"], "--allow-origin null: expected scheme://host"),
        (["RUN", "--allow-origin", "https://a.b/"], "expected scheme://host"),
        (["RUN", "--model", "x"], "--model x: expected NAME=RUN"),
        (["RUN", "--model", "a=b", "--model", "a=c"], "there is a model 'a' already"),
        (["RUN", "--port", "70000"], "--port: must be 0 to 65,535"),
        (["RUN", "--max-streams", "0"], "--max-streams: must be 1 to"),
        (["RUN", "--host", "203.0.113.7", "--insecure"], "choose another"),
        (["/nowhere"], "/nowhere"),
    ],
)
def test_what_it_does_not_start_with(
    names_run: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("MODEL_DIR", "PORT", "MICROGPT_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    port = [] if "--port" in words else ["--port", "0"]
    status = main(["serve", *(str(names_run) if word == "RUN" else word for word in words), *port])
    said = capsys.readouterr()
    assert status in (2, 4, 5)
    assert sentence in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("to", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:PORT", 200),
        ("127.0.0.3", "127.0.0.3:PORT", 200),
        ("127.0.0.3", "localhost:PORT", 200),
        ("127.0.0.3", "0.0.0.0:PORT", 200),
        ("127.0.0.3", "127.0.0.4:PORT", 403),
        ("127.0.0.3", "rebound.example:PORT", 403),
    ],
)
def test_insecure_on_every_address(names_server: Server, to: str, host: str, status: int) -> None:
    """Host is then the address that the client connected to, too."""
    data = request("/health", b"", method="GET", host=host).replace(b"PORT", str(names_server.port).encode())
    with socket.create_connection((to, names_server.port), timeout=30) as connection:
        connection.sendall(data)
        assert answer_of(connection)[0] == status
    assert names_server.url == f"http://0.0.0.0:{names_server.port}"


def test_a_port_in_use_is_named(server: Server, names_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(names_run), "--port", str(server.port)]) == 5
    assert f"--port {server.port}" in capsys.readouterr().err


def test_help_takes_no_model_and_no_server(server: Server) -> None:
    assert httpx2.get(f"{server.url}/").headers["content-security-policy"].startswith("default-src")


def test_answers_are_sent_at_once() -> None:
    async def accepted() -> object:
        made: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

        class Accepting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(transport)

        with bind("127.0.0.1", 0) as listener:
            async with await asyncio.get_running_loop().create_server(Accepting, sock=listener):
                with socket.create_connection(listener.getsockname()):
                    transport = await made
                    try:
                        return transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    finally:
                        transport.close()

    assert asyncio.run(accepted())


@contextlib.asynccontextmanager
async def answering(idle: float) -> AsyncIterator[tuple[tuple[str, int], list[int]]]:
    """The address of a server of this process that holds two connections, and the statuses that it refused with."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"Ok"})

    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    config.timeout_keep_alive = idle  # type: ignore[assignment]
    state, refused = ServerState(), list[int]()

    def protocol() -> Protocol:
        return Protocol(config=config, server_state=state, app_state={}, most_connections=2, refused=refused.append)

    with bind("127.0.0.1", 0) as listener:
        async with await asyncio.get_running_loop().create_server(protocol, sock=listener):
            yield listener.getsockname(), refused


def test_more_connections_than_it_holds_are_told_so() -> None:
    """At once, before they send anything; those that were there go on."""

    async def check() -> None:
        async with answering(idle=60) as (address, refused):
            first, second, third = [await asyncio.open_connection(*address) for _ in range(3)]
            told = await third[0].read()
            assert told.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in told
            for reader, writer in (first, second):
                writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            assert refused == [503]
            for _, writer in (first, second, third):
                writer.close()

    asyncio.run(asyncio.wait_for(check(), 120))


def test_a_connection_without_a_request_is_closed() -> None:
    """After an answer; as `idle_seconds` says."""

    async def check() -> None:
        async with answering(idle=0.05) as (address, _):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await reader.read()).endswith(b"Ok"), "to the end of the connection"
            writer.close()

    asyncio.run(asyncio.wait_for(check(), 120))
