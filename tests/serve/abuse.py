"""Clients that leave, are slow, or are too many, beside a good one: nothing of them stays, and nobody else notices.

python -m tests.serve.abuse [--minutes 60]    # the long form (make soak): prints the figures of docs/serve.md
python -m tests.serve.abuse good PORT         # the good client, until stdin ends: prints its times

The suite's short form (test_load.py) calls the same functions with smaller numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import resource
import select
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from microgpt.serve.limits import LIMITS
from tests.serve.hostile import GENERATE, request
from tests.serve.running import Server, answer_of, connect, serving, train_endless

COMPLETIONS = "/v1/completions"
STREAM = {"prompt": "a", "temperature": 0, "stream": True}
LONG = {"num_samples": 50, "temperature": 0}  # 50 texts of 4096 tokens, if nobody stops them
BRIEF = {"temperature": 0, "max_tokens": 3}
MANY = STREAM | {"n": 32, "logprobs": 20}
PROMPT = "ab" * 1500
GOOD = request(COMPLETIONS, {"prompt": "a", "temperature": 0, "max_tokens": 200})
GOOD_TEXT = "ba" * 100
PER_SECOND = 25  # aborts, beside the good client
PAUSE = 0.02  # seconds between the good client's requests

# Code that runs in the server's process: /metrics also tells the tasks of the event loop and the slots in use.
COUNTED = """
import asyncio
import microgpt.serve.metrics as m
import microgpt.serve.scheduler as s
schedulers = []
begin, text = s.Scheduler.__init__, m.Metrics.text
def noted(self, *arguments):
    begin(self, *arguments)
    schedulers.append(self)
def counted(self):
    slots = sum(len(one._running) for one in schedulers)
    return text(self) + f"test_tasks {len(asyncio.all_tasks())}\\ntest_slots {slots}\\n".encode()
s.Scheduler.__init__, m.Metrics.text = noted, counted
"""
LEFT = ("microgpt_active_streams", "microgpt_queue_depth", "test_slots")


def numbers(server: Server) -> dict[str, float]:
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


def reset(connection: socket.socket) -> None:
    """Leave without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextlib.contextmanager
def nothing_stays(server: Server, seconds: float = 1.0) -> Iterator[None]:
    """After the block no reply, request or slot is left, and soon no task or descriptor more than before."""
    before = numbers(server)
    yield

    def stay(names: tuple[str, ...]) -> dict[str, float]:
        now = numbers(server)
        return {name: now[name] for name in names if now[name] > (0 if name in LEFT else before[name])}

    assert wait(lambda: not stay(LEFT), seconds), stay(LEFT)
    others = ("test_tasks", "process_open_fds")
    assert wait(lambda: not stay(others), 5), (stay(others), before)


def leave(server: Server, n: int, per_second: float = 0) -> None:
    """n clients that leave: in the queue, in prefill, in the middle of a stream or of a joined answer."""
    bodies = [
        request(body=LONG),
        request(COMPLETIONS, STREAM),
        request(COMPLETIONS, {"prompt": PROMPT, "temperature": 0}),
        request(COMPLETIONS, {"prompt": [PROMPT] * 8, "temperature": 0, "stream": True}),
    ]
    began = time.monotonic()
    for i in range(n):
        with connect(server.port, bodies[i % 4]) as connection:
            if i % 3 == 0 and i % 4 in (1, 3) and i % 8 < 4:
                connection.recv(10)
            if i % 2:
                reset(connection)
        if per_second:
            time.sleep(max(0.0, began + (i + 1) / per_second - time.monotonic()))


def dawdle(server: Server, n: int, deadline: float, readers: int = 0, asked: dict[str, object] | None = None) -> float:
    """n clients that send their heads and bodies slowly, and some that do not read what they `asked`: all are cut.

    Returns the seconds until the last one that sends was.
    """
    whole = request(body=BRIEF)
    beginnings = [b"", b"POST ", whole[:60], whole[:-1], whole[:-10]]
    lost = request(COMPLETIONS, asked or MANY)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for _ in range(readers):
            stack.enter_context(connect(server.port, lost, buffer=4096))
        for i in range(n - readers):
            connection = stack.enter_context(connect(server.port, beginnings[i % 5]))
            waiting.register(connection, selectors.EVENT_READ, i % 5)
        began = time.monotonic()
        while waiting.get_map():
            assert time.monotonic() - began < deadline + 10, f"{len(waiting.get_map())} connections are not cut"
            for key, _ in waiting.select(0.2):
                connection = cast(socket.socket, key.fileobj)
                waiting.unregister(connection)
                assert answer_of(connection)[0] in (0, 400, 408)
            for key in list(waiting.get_map().values()):
                if key.data == 2:  # a byte now and then is no excuse
                    with contextlib.suppress(OSError):
                        cast(socket.socket, key.fileobj).send(b"x")
        seconds = time.monotonic() - began
        assert wait(lambda: numbers(server)["microgpt_active_streams"] <= 1, deadline + 60), "readers are not cut"
    return seconds


@dataclass
class Refused:
    """What overload gave."""

    seconds: list[float] = field(default_factory=list)  # until each refusal
    harmed: int = 0  # admitted requests that did not get their answer


def overload(server: Server, run: int, queue: int, times: int = 10) -> Refused:
    """`run` replies and `queue` requests are admitted, `times` as many more are told 503 at once."""
    body = {"prompt": "ab", "temperature": 3.0, "seed": 5, "max_tokens": 2000}
    admitted = request(COMPLETIONS, body | {"max_tokens": 40})
    expected = server.post(COMPLETIONS, body | {"max_tokens": 40}).json()["choices"][0]["text"]
    found = Refused()
    with contextlib.ExitStack() as stack:

        def dial(data: bytes) -> socket.socket:
            return stack.enter_context(connect(server.port, data))

        held = [dial(request(body=LONG)) for _ in range(run)]
        assert wait(lambda: numbers(server)["microgpt_active_streams"] == run, 10)
        waiting = [dial(admitted) for _ in range(queue)]
        assert wait(lambda: numbers(server)["microgpt_queue_depth"] == queue, 10)
        for i in range(times * (run + queue)):
            began = time.monotonic()
            with connect(server.port, admitted if i % 2 else request(body=BRIEF)) as connection:
                status, answer = answer_of(connection)
            found.seconds.append(time.monotonic() - began)
            assert status == 503, answer
            assert int(re.findall(rb"\r\nretry-after: (\d+)", answer)[0]) >= 1
            assert b'"error"' in answer
        assert numbers(server)["microgpt_active_streams"] == run
        for connection in held:
            reset(connection)
        for connection in waiting:
            status, answer = answer_of(connection)
            text = json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"] if status == 200 else None
            found.harmed += text != expected
    return found


class Good:
    """A client in a process of its own that asks for the same 200 tokens again and again."""

    def __init__(self, server: Server) -> None:
        command = [sys.executable, "-m", "tests.serve.abuse", "good", str(server.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.alone: list[tuple[float, float]] = []  # from when to when
        self.beside: list[tuple[float, float]] = []

    @contextlib.contextmanager
    def noting(self, kind: list[tuple[float, float]]) -> Iterator[None]:
        """The block's time belongs to a kind."""
        began = time.monotonic()
        yield
        kind.append((began, time.monotonic()))

    def close(self) -> None:
        """Without its figures."""
        if self._process.poll() is None:
            self._process.communicate(timeout=60)

    def end(self) -> tuple[float, float, int]:
        """The 99th percentiles of seconds alone and beside others, and how many requests there were."""
        told, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, told
        asked = json.loads(told)

        def p99(kind: list[tuple[float, float]]) -> float:
            return float(
                np.percentile([took for at, took in asked if any(a <= at and at + took <= b for a, b in kind)], 99)
            )

        return p99(self.alone), p99(self.beside), len(asked)


def good(port: int) -> None:
    """Ask until stdin ends; then print all times. An answer that is wrong ends it with an error."""
    asked = []
    with connect(port, b"") as connection:
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            began = time.monotonic()
            connection.sendall(GOOD.replace(b"PORT", str(port).encode()))
            status, answer = answer_of(connection)
            asked.append((began, time.monotonic() - began))
            text = json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"] if status == 200 else ""
            assert (status, text) == (200, GOOD_TEXT), answer
    print(json.dumps(asked))


def soak(server: Server, seconds: float, run: int, queue: int, deadline: float) -> list[dict[str, float]]:
    """All of it in turns, in random numbers; the numbers of the server after each turn."""
    random_ = random.Random(1)
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        leave(server, random_.randrange(20, 100), per_second=100)
        if random_.random() < 0.2:
            dawdle(server, random_.randrange(5, 50), deadline, readers=random_.randrange(3))
        if random_.random() < 0.2:
            wait(lambda: not numbers(server)["microgpt_active_streams"], 5)
            overload(server, run, queue, times=1)
        for _ in range(20):
            assert server.post(GENERATE, BRIEF).status_code == 200
        found.append(numbers(server))
    return found


def flat(found: list[dict[str, float]], name: str) -> tuple[float, float]:
    """The largest value of the second and of the last quarter: what came first was warming up."""
    quarter = max(1, len(found) // 4)
    values = [one[name] for one in found]
    return max(values[quarter : 2 * quarter] or values), max(values[-quarter:])


def main(minutes: float) -> int:
    """The long form."""
    run, queue = 64, 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    deadline = LIMITS["head_seconds"].most
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()},"
        f" {PER_SECOND} aborts per second"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        endless = train_endless(folder)
        limits = ("--max-streams", str(run), "--queue", str(queue))
        with serving(endless, *limits, log=folder / "log", before=COUNTED) as server:
            leave(server, 200)  # to warm up
            wait(lambda: not numbers(server)["microgpt_active_streams"], 5)
            ok = _report(
                server, "10,000 aborts", lambda good: _in_parts(good, 20, lambda: leave(server, 500, PER_SECOND))
            )

            def slow(n: int, asked: dict[str, object]) -> Callable[[Good], None]:
                return lambda good: _in_parts(good, 4, lambda: dawdle(server, n, deadline, readers=8, asked=asked))

            ok &= _report(server, "2,000 slow clients", slow(500, STREAM))
            # Not slowness alone: until their buffers are full, 8 such clients have as much work done as any 8 others.
            _report(server, "32 that ask for 32 texts each and read none", slow(16, MANY))
            with nothing_stays(server):
                refused = overload(server, run, queue)
            slowest = np.percentile(refused.seconds, 99) * 1000
            print(
                f"overload of ten times: {len(refused.seconds)} refused, p99 {slowest:.1f} ms; {refused.harmed} harmed"
            )
            with nothing_stays(server):
                found = soak(server, minutes * 60, run, queue, deadline)
            memory, files = flat(found, "process_resident_memory_bytes"), flat(found, "process_open_fds")
            print(
                f"soak of {minutes:g} minutes, {len(found)} turns: memory {memory[0] / 2**20:.1f} MiB in the second"
                f" quarter, {memory[1] / 2**20:.1f} MiB in the last; descriptors {files[0]:.0f} and {files[1]:.0f}"
            )
            ok &= memory[1] <= memory[0] * 1.05 and files[1] <= files[0] and refused.harmed == 0
        assert "Traceback" not in (folder / "log").read_text()
    return 0 if ok else 1


def _in_parts(good: Good, parts: int, abuse: Callable[[], object]) -> None:
    """Abuse in parts, and half as long without it after each, so that other work on the machine falls on both."""
    for _ in range(parts):
        began = time.monotonic()
        with good.noting(good.beside):
            abuse()
        wait(lambda: False, 0.5)
        with good.noting(good.alone):
            time.sleep((time.monotonic() - began) / 2)


def _report(server: Server, title: str, abuse: Callable[[Good], None]) -> bool:
    """Abuse beside the good client, and what it noticed: whether its p99 rose by a fifth at most."""
    before = numbers(server)["process_resident_memory_bytes"]
    with nothing_stays(server), contextlib.closing(Good(server)) as client:
        abuse(client)
        alone, beside, n = client.end()
    grown = (numbers(server)["process_resident_memory_bytes"] - before) / 2**20
    print(
        f"{title}: no slot, task or descriptor left, memory {grown:+.1f} MiB; the good client's p99 of {n} requests"
        f" {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside them ({beside / alone:.2f})",
        flush=True,
    )
    return beside <= 1.2 * alone


if __name__ == "__main__":
    if sys.argv[1:2] == ["good"]:
        good(int(sys.argv[2]))
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("--minutes", type=float, default=60, help="of the soak")
        sys.exit(main(parser.parse_args().minutes))
