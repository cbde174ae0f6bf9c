"""Hostile requests: each is refused at once, and the server is the same afterwards."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.serve.hostile import BODY, CHAT, GENERATE, Case, cases, json_cases, media_cases, request
from tests.serve.running import SECONDS, Server, answer_of, connect

CASES = list(cases())
QUESTION = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}


def exchange(port: int, data: bytes) -> tuple[int, bytes]:
    """The status and all bytes that answer the bytes."""
    with connect(port, b"") as connection:
        with contextlib.suppress(OSError):  # it may be refused before all of it is sent
            connection.sendall(data.replace(b"PORT", str(port).encode()))
        return answer_of(connection)


def gauge(server: Server, name: str) -> float:
    """A number of /metrics."""
    (found,) = re.findall(rf"^{name} (\S+)$", server.get("/metrics").text, re.MULTILINE)
    return float(found)


@pytest.fixture(scope="module")
def attacked(server: Server) -> Iterator[Server]:
    """The server, which must not have changed when all cases are done."""
    before = server.post(CHAT, QUESTION).content
    files = gauge(server, "process_open_fds")
    yield server
    assert server.post(CHAT, QUESTION).content == before
    assert gauge(server, "microgpt_active_streams") == gauge(server, "microgpt_queue_depth") == 0
    for _ in range(100):
        if gauge(server, "process_open_fds") <= files:
            break
        time.sleep(0.05)
    assert gauge(server, "process_open_fds") <= files
    assert "Traceback" not in server.log.read_text()


def test_there_are_many() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name[:60] for case in CASES])
def test_it_is_refused(attacked: Server, case: Case) -> None:
    before = attacked.cpu_seconds()
    status, answer = exchange(attacked.port, case.request)
    assert status in case.statuses, answer[:300]
    assert attacked.cpu_seconds() - before < 1
    assert b"Traceback" not in answer
    assert b"site-packages" not in answer
    assert b"access-control-allow-origin" not in answer.lower()
    body = answer.partition(b"\r\n\r\n")[2]
    if not case.request.startswith(b"HEAD "):
        told = json.loads(body)
        assert list(told) == ["error"]
        assert isinstance(told["error"], str)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_openais_routes_refuse_the_same_in_their_shape(attacked: Server, path: str) -> None:
    for case in [*json_cases(), *media_cases()]:
        sent = case.request.replace(GENERATE.encode(), path.encode(), 1).replace(CHAT.encode(), path.encode(), 1)
        status, answer = exchange(attacked.port, sent)
        assert status == (415 if 415 in case.statuses else 400), (case.name, answer[:300])
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error.keys() == {"message", "type", "param", "code"}, case.name
        if case.statuses == {422} and " for " not in case.name:  # a key that occurs twice, or a number beyond 64 bits
            assert error["param"] == "seed", case.name


def test_exactly_4_mib_is_allowed(attacked: Server) -> None:
    body = b'{"num_samples": 1}'.ljust(BODY)
    assert exchange(attacked.port, request(body=body))[0] == 200
    parts = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    chunks = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in parts) + b"0\r\n\r\n"
    chunked = request(body=chunks, length=None, headers="Transfer-Encoding: chunked\r\n")
    assert exchange(attacked.port, chunked)[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:PORT", "localhost:PORT", "LOCALHOST", "[::1]:PORT"])
def test_hosts_that_are_served(attacked: Server, host: str) -> None:
    assert exchange(attacked.port, request("/health", b"", method="GET", host=host))[0] == 200


@pytest.mark.parametrize("origin", ["http://127.0.0.1:PORT", "http://localhost:PORT"])
def test_its_own_origin_is_served(attacked: Server, origin: str) -> None:
    assert exchange(attacked.port, request(headers=f"Origin: {origin}\r\n"))[0] == 200


def test_a_charset_is_fine(attacked: Server) -> None:
    assert exchange(attacked.port, request(content_type="application/json; charset=utf-8"))[0] == 200


def test_two_requests_in_one_packet_are_answered_in_order(attacked: Server) -> None:
    two = request("/health", b"", method="GET") + request(
        "/nowhere", b"", method="GET", headers="Connection: close\r\n"
    )
    with socket.create_connection(("127.0.0.1", attacked.port), timeout=SECONDS) as connection:
        connection.sendall(two.replace(b"PORT", str(attacked.port).encode()))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"404"]
