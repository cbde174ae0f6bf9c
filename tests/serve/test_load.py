"""A server under load: overload, fairness, clients that leave, and clients that are slow. Nothing of them stays."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import httpx2
import pytest

from microgpt.serve import protocol, scheduler
from microgpt.serve.limits import LIMITS
from tests.serve import abuse
from tests.serve.abuse import BRIEF, COMPLETIONS, COUNTED, LONG, numbers, reset, wait
from tests.serve.hostile import GENERATE, request
from tests.serve.running import Server, answer_of, serving

RUN, WAIT = 4, 6  # --max-streams and --queue
SECONDS = 0.8  # the deadlines of heads, bodies and readers here
SHORT_TIMES = f"import microgpt.serve.protocol as p; p.HEAD_SECONDS = p.BODY_SECONDS = p.WRITE_SECONDS = {SECONDS}"
SOAK_SECONDS = 10
Dial = Callable[..., socket.socket]


@pytest.fixture(scope="module")
def busy(endless_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of an endless model, with short deadlines."""
    log = tmp_path_factory.mktemp("serve") / "log"
    arguments = (endless_run, "--max-streams", str(RUN), "--queue", str(WAIT))
    with serving(*arguments, log=log, before=SHORT_TIMES + COUNTED) as server:
        yield server
        assert "Traceback" not in log.read_text()


@pytest.fixture(autouse=True)
def nothing_stays(busy: Server) -> Iterator[None]:
    """After each test no reply, request, slot, task or descriptor is left, and the answers are the same."""
    with abuse.nothing_stays(busy, 1.0):
        yield
    assert busy.post(GENERATE, BRIEF).json() == {"samples": ["aba"]}


def fill(server: Server, dial: Dial, body: object = LONG) -> list[socket.socket]:
    """As many replies as may run."""
    held = [dial(server.port, request(body=body)) for _ in range(RUN)]
    assert wait(lambda: numbers(server)["microgpt_active_streams"] == RUN, 10)
    return held


def test_overload_is_refused_at_once(busy: Server) -> None:
    """N run, Q wait, and ten times as many get a 503; who was admitted gets the answer that it gets alone."""
    refused = abuse.overload(busy, RUN, WAIT)
    assert len(refused.seconds) == 10 * (RUN + WAIT)
    assert sorted(refused.seconds)[len(refused.seconds) // 2] < 1
    assert refused.harmed == 0


def test_health_answers_in_overload(busy: Server, dial: Dial) -> None:
    fill(busy, dial)
    for _ in range(WAIT):
        dial(busy.port, request(body=BRIEF))
    assert wait(lambda: numbers(busy)["microgpt_queue_depth"] == WAIT, 10)
    assert busy.get("/health").status_code == 200
    for path, error in ((GENERATE, str), (COMPLETIONS, dict)):
        assert isinstance(busy.post(path, {"prompt": "a"}).json()["error"], error)


def test_the_first_token_of_100_streams(server: Server, dial: Dial) -> None:
    """99 of them have it within a second, of a tiny model; on a machine that is slow at /health in proportion."""
    began = time.monotonic()
    for _ in range(100):
        assert answer_of(dial(server.port, request("/health", b"", method="GET")))[0] == 200
    most = max(1.0, 5 * (time.monotonic() - began))
    question = {"messages": [{"role": "user", "content": "how are you"}], "stream": True, "seed": 1}
    data = request("/v1/chat/completions", question)
    began, seconds = time.monotonic(), []
    connections = [dial(server.port, data) for _ in range(100)]
    with selectors.DefaultSelector() as waiting:
        texts = {waiting.register(stream, selectors.EVENT_READ).fd: b"" for stream in connections}
        while len(seconds) < 100 and (ready := waiting.select(30)):
            for key, _ in ready:
                texts[key.fd] += cast(socket.socket, key.fileobj).recv(65536)
                if texts[key.fd].count(b"data: ") >= 2:  # the role's event, and the first token's
                    seconds.append(time.monotonic() - began)
                    waiting.unregister(key.fileobj)
    assert len(seconds) == 100
    assert sorted(seconds)[98] < most


def test_clients_take_turns(busy: Server, dial: Dial) -> None:
    """A client with one request does not wait for all the requests of another."""
    held = fill(busy, dial)
    for _ in range(WAIT - 1):
        dial(busy.port, request(body=LONG))
    assert wait(lambda: numbers(busy)["microgpt_queue_depth"] == WAIT - 1, 10)
    modest = dial(busy.port, request(body=BRIEF), address="127.0.0.2")
    assert wait(lambda: numbers(busy)["microgpt_queue_depth"] == WAIT, 10)
    reset(held[0])
    reset(held[1])
    assert answer_of(modest)[0] == 200


def test_200_clients_leave(busy: Server) -> None:
    """While they wait, while their prompts are computed, in the middle of a stream or of a joined answer."""
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(abuse.leave, busy, 200)
        while not leaving.done():
            assert busy.get("/health").status_code == 200
        leaving.result()


def test_a_prompt_is_given_up_when_its_client_leaves(busy: Server, dial: Dial) -> None:
    """In prefill, too: of 64 prompts of 4000 tokens few are computed."""
    prompts = request(COMPLETIONS, {"prompt": ["ab" * 2000] * 64, "temperature": 0, "max_tokens": 1})
    connection = dial(busy.port, prompts)
    assert wait(lambda: numbers(busy)["test_slots"] > 0, 10)
    reset(connection)
    assert wait(lambda: numbers(busy)["test_slots"] == 0, 1)


def test_a_joined_answer_stops_when_its_client_leaves(busy: Server, dial: Dial) -> None:
    connection = dial(busy.port, request(body=LONG))
    before = numbers(busy)["microgpt_tokens_generated_total"]
    assert wait(lambda: numbers(busy)["microgpt_tokens_generated_total"] > before, 10)
    connection.close()
    assert wait(lambda: numbers(busy)["microgpt_active_streams"] == 0, 1)
    tokens = numbers(busy)["microgpt_tokens_generated_total"]
    time.sleep(0.25)
    assert numbers(busy)["microgpt_tokens_generated_total"] - tokens <= 2 * 50


def test_100_slow_clients_are_cut(busy: Server) -> None:
    """Those that send a byte now and then, and those that do not read; others are served meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        dawdling = pool.submit(abuse.dawdle, busy, 100, SECONDS, readers=2)
        while not dawdling.done():
            assert busy.post(GENERATE, BRIEF).status_code == 200
        assert dawdling.result() > SECONDS / 2


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system takes what fills its buffers")
def test_a_stream_that_nobody_reads_is_soon_held(busy: Server, dial: Dial) -> None:
    """Little of it is generated, so that others wait a moment for its steps, and not for those of a whole context.

    450 of 4096 tokens, and those that the worker may be ahead of the event loop; the system alone would take 2000.
    """
    before = numbers(busy)["microgpt_tokens_generated_total"]
    dial(busy.port, request(COMPLETIONS, abuse.STREAM), buffer=4096)
    assert wait(lambda: numbers(busy)["microgpt_active_streams"] == 1, 10)
    assert wait(lambda: numbers(busy)["microgpt_active_streams"] == 0, 10)
    undelivered = scheduler.MOST_UNTAKEN + scheduler.MOST_GATHERED
    assert numbers(busy)["microgpt_tokens_generated_total"] - before < 900 + undelivered


def test_a_soak_leaves_memory_and_descriptors_as_they_are(busy: Server) -> None:
    found = abuse.soak(busy, SOAK_SECONDS, RUN, WAIT, SECONDS)
    memory, files = abuse.flat(found, "process_resident_memory_bytes"), abuse.flat(found, "process_open_fds")
    assert memory[1] <= memory[0] + 16 * 2**20
    assert files[1] <= files[0] + 4


def test_the_deadlines_are_those_of_the_table() -> None:
    """Those of this file are shorter."""
    assert (protocol.HEAD_SECONDS, protocol.BODY_SECONDS, protocol.WRITE_SECONDS) == (10, 10, 10)
    assert [LIMITS[f"{name}_seconds"].most for name in ("head", "body", "write")] == [10, 10, 10]


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


def test_a_connection_that_is_kept_is_not_cut(busy: Server, dial: Dial) -> None:
    connection = dial(busy.port, request(body=BRIEF))
    for _ in range(3):
        assert answer_of(connection)[0] == 200
        time.sleep(SECONDS / 2)
        connection.sendall(request(body=BRIEF).replace(b"PORT", str(busy.port).encode()))
