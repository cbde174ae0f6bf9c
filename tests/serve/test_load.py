"""A server under load: overload, fairness, clients that leave, and clients that are slow. Nothing of them stays."""

from __future__ import annotations

import json
import re
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import httpx2
import pytest

from tests.serve.hostile import request
from tests.serve.running import Server, answer_of, connect, serving

RUN, WAIT = 4, 6  # --max-streams and --queue
SECONDS = 0.8  # the deadlines of heads, bodies and readers here
SHORT_TIMES = f"import microgpt.serve.protocol as p; p.HEAD_SECONDS = p.BODY_SECONDS = p.WRITE_SECONDS = {SECONDS}"
GENERATE = "/microgpt/v1/generate"
LONG = {"num_samples": 50, "temperature": 0}  # 50 texts of 4096 tokens, if nobody stops them
BRIEF = {"temperature": 0, "max_tokens": 3}
STREAM = {"prompt": "a", "temperature": 0, "stream": True}


@pytest.fixture(scope="module")
def busy(endless_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of an endless model, with short deadlines."""
    log = tmp_path_factory.mktemp("serve") / "log"
    arguments = (endless_run, "--max-streams", str(RUN), "--queue", str(WAIT))
    with serving(*arguments, log=log, before=SHORT_TIMES) as server:
        yield server
        assert "Traceback" not in log.read_text()


@pytest.fixture(autouse=True)
def nothing_stays(busy: Server) -> Iterator[None]:
    """After each test no reply, request or descriptor is left, within a second."""
    idle(busy)
    before = gauges(busy)
    yield
    idle(busy)
    wait(lambda: gauges(busy)["process_open_fds"] <= before["process_open_fds"], 3)
    assert gauges(busy)["process_open_fds"] <= before["process_open_fds"]
    assert busy.post(GENERATE, BRIEF).json() == {"samples": ["aba"]}


def gauges(server: Server) -> dict[str, float]:
    """The numbers of /metrics that have no label."""
    text = server.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def idle(server: Server) -> None:
    def empty() -> bool:
        now = gauges(server)
        return now["microgpt_active_streams"] == now["microgpt_queue_depth"] == 0

    assert wait(empty, 1.5), gauges(server)


def reset(connection: socket.socket) -> None:
    """Leave without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_overload_is_refused_at_once(busy: Server) -> None:
    """N run, Q wait, and the next one gets a 503; the gauges say so."""
    held = [connect(busy.port, request(body=LONG)) for _ in range(RUN)]
    assert wait(lambda: gauges(busy)["microgpt_active_streams"] == RUN, 2)
    waiting = [connect(busy.port, request(body=BRIEF)) for _ in range(WAIT)]
    assert wait(lambda: gauges(busy)["microgpt_queue_depth"] == WAIT, 2)
    for path, body, error in ((GENERATE, BRIEF, str), ("/v1/completions", {"prompt": "a"}, dict)):
        began = time.monotonic()
        answer = busy.post(path, body)
        assert time.monotonic() - began < 1
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert isinstance(answer.json()["error"], error)
    more = [connect(busy.port, request(body=BRIEF)) for _ in range(10 * (RUN + WAIT))]
    for connection in more:
        status, told = answer_of(connection)
        assert status == 503
        assert b"\r\nretry-after: " in told
        connection.close()
    assert busy.get("/health").status_code == 200
    assert gauges(busy)["microgpt_active_streams"] == RUN
    for connection in held:
        reset(connection)
    for connection in waiting:  # whoever waited is served
        assert answer_of(connection)[0] == 200
        connection.close()


def test_the_first_token_of_100_streams(server: Server) -> None:
    """99 of them have it within a second, of a tiny model."""
    question = {"messages": [{"role": "user", "content": "how are you"}], "stream": True, "seed": 1}
    data = request("/v1/chat/completions", question)
    began, seconds = time.monotonic(), []
    connections = [connect(server.port, data) for _ in range(100)]
    with selectors.DefaultSelector() as waiting:
        texts = {waiting.register(stream, selectors.EVENT_READ).fd: b"" for stream in connections}
        while len(seconds) < 100 and (ready := waiting.select(10)):
            for key, _ in ready:
                texts[key.fd] += cast(socket.socket, key.fileobj).recv(65536)
                if texts[key.fd].count(b"data: ") >= 2:  # the role's event, and the first token's
                    seconds.append(time.monotonic() - began)
                    waiting.unregister(key.fileobj)
    for stream in connections:
        stream.close()
    assert len(seconds) == 100
    assert sorted(seconds)[98] < 1


def test_clients_take_turns(busy: Server) -> None:
    """A client with one request does not wait for all the requests of another."""
    held = [connect(busy.port, request(body=LONG)) for _ in range(RUN)]
    assert wait(lambda: gauges(busy)["microgpt_active_streams"] == RUN, 2)
    greedy = [connect(busy.port, request(body=LONG)) for _ in range(WAIT - 1)]
    assert wait(lambda: gauges(busy)["microgpt_queue_depth"] == WAIT - 1, 2)
    modest = connect(busy.port, request(body=BRIEF), address="127.0.0.2")
    assert wait(lambda: gauges(busy)["microgpt_queue_depth"] == WAIT, 2)
    reset(held[0])
    reset(held[1])
    assert answer_of(modest)[0] == 200
    for connection in [*held[2:], *greedy]:
        reset(connection)
    modest.close()


def test_200_clients_leave(busy: Server) -> None:
    """While they wait, while their prompts are computed, in the middle of a stream or of a joined answer."""
    good: list[float] = []

    def others() -> None:
        for _ in range(20):
            began = time.monotonic()
            busy.client.get("/health")
            good.append(time.monotonic() - began)

    thread = threading.Thread(target=others)
    thread.start()
    prompt = "ab" * 1500
    bodies = [
        request(body=LONG),
        request("/v1/completions", STREAM),
        request("/v1/completions", {"prompt": prompt, "temperature": 0}),
        request("/v1/completions", {"prompt": [prompt] * 8, "temperature": 0, "stream": True}),
    ]
    for i in range(200):
        connection = connect(busy.port, bodies[i % 4])
        if i % 3 == 0:
            connection.recv(10 if i % 4 in (1, 3) and i % 8 < 4 else 0)
        reset(connection) if i % 2 else connection.close()
    thread.join()
    assert max(good) < 1


def test_a_joined_answer_stops_when_its_client_leaves(busy: Server) -> None:
    connection = connect(busy.port, request(body=LONG))
    assert wait(lambda: gauges(busy)["microgpt_tokens_generated_total"] > 0, 2)
    connection.close()
    assert wait(lambda: gauges(busy)["microgpt_active_streams"] == 0, 1)
    tokens = gauges(busy)["microgpt_tokens_generated_total"]
    time.sleep(0.25)
    assert gauges(busy)["microgpt_tokens_generated_total"] - tokens <= 2 * 50


def test_slow_heads_and_bodies_are_cut(busy: Server) -> None:
    """100 clients that send a byte now and then are gone after the deadline, and hold up nobody."""
    whole = request(body=BRIEF)
    beginnings = [b"", b"POST ", whole[:60], whole[:-1], whole[:-10]]
    slow = [connect(busy.port, beginnings[i % 5]) for i in range(100)]
    began = time.monotonic()
    while time.monotonic() - began < SECONDS + 0.5:
        for i in range(5):
            if i % 5 == 2:
                try:
                    slow[i].sendall(b"x")
                except OSError:
                    break
        assert busy.post(GENERATE, BRIEF).status_code == 200
        time.sleep(0.05)
    for connection in slow:
        assert answer_of(connection)[0] in (0, 400, 408)
        connection.close()


def test_slow_readers_are_cut(busy: Server) -> None:
    body = {"prompt": "a", "temperature": 0, "stream": True, "n": 32}
    slow = [connect(busy.port, request("/v1/completions", body), buffer=4096) for _ in range(2)]
    assert wait(lambda: gauges(busy)["microgpt_active_streams"] == 2, 2)
    assert wait(lambda: gauges(busy)["microgpt_active_streams"] == 0, SECONDS + 15)
    for connection in slow:
        connection.close()


def test_a_reply_is_the_same_alone_and_beside_others(busy: Server) -> None:
    """And joined or streamed."""
    body = {"prompt": "ab", "temperature": 3.0, "seed": 5, "max_tokens": 40, "n": 2}

    def joined(_: int) -> list[str]:
        answer = httpx2.post(f"{busy.url}/v1/completions", json=body, timeout=30)
        return [choice["text"] for choice in answer.json()["choices"]]

    alone = joined(0)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(joined, range(8))) == [alone] * 8
    texts = ["", ""]
    with busy.client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    texts[choice["index"]] += choice["text"]
    assert texts == alone


def test_a_connection_that_is_kept_is_not_cut(busy: Server) -> None:
    with connect(busy.port, request(body=BRIEF)) as connection:
        for _ in range(3):
            assert answer_of(connection)[0] == 200
            time.sleep(SECONDS / 2)
            connection.sendall(request(body=BRIEF).replace(b"PORT", str(busy.port).encode()))
