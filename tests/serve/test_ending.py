"""How the process ends: with status 0, within 5 s of the first signal, whatever is under way."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from microgpt.serve.ending import CUT_SECONDS, GRACE_SECONDS, LEAVE_SECONDS
from tests.serve.hostile import GENERATE, request
from tests.serve.running import SECONDS, answer_of, free_port, read_all, serving, started

MOST_SECONDS = 5  # the promise
STREAM = {"prompt": "a", "temperature": 0, "stream": True}
LONG = {"num_samples": 50, "temperature": 0}  # 50 texts of 4096 tokens, if nobody stops them
HANGS = "import time; import microgpt.serve.{module} as m; m.{name} = lambda *a, **k: time.sleep(60)"
Dial = Callable[..., socket.socket]


def status_after(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """The exit status after a signal. Raises subprocess.TimeoutExpired if it is late."""
    process.send_signal(number)
    return process.wait(MOST_SECONDS)


def test_there_is_time_between_the_phases() -> None:
    """Even for a machine whose event loop answers late."""
    assert GRACE_SECONDS + 1 <= CUT_SECONDS
    assert CUT_SECONDS + 1 <= LEAVE_SECONDS
    assert LEAVE_SECONDS + 1 <= MOST_SECONDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(endless_run: Path, tmp_path: Path, dial: Dial, number: int) -> None:
    """Open streams get their last event, whoever waits a 503; the environment names the model and the port."""
    arguments = ("--max-streams", "201", "--queue", "4")
    port = free_port()
    with serving(*arguments, log=tmp_path / "log", port="", MODEL_DIR=str(endless_run), PORT=str(port)) as server:
        assert server.port == port
        streaming = [dial(port, request("/v1/completions", STREAM | {"n": 4})) for _ in range(200)]
        joined = dial(port, request(body=LONG))
        waiting = dial(port, request("/v1/completions", STREAM))
        dial(port, b"")
        dial(port, b"POST / HTTP/1.1\r\n")
        for connection in streaming:
            assert b" 200 " in connection.recv(100)
        server.process.send_signal(number)
        texts = read_all(streaming)
        assert server.process.wait(MOST_SECONDS) == 0
        assert server.process.stdout
        assert server.process.stdout.read() == "", "the address is all that it prints"
        for text in texts:
            last = text.rpartition(b"data: ")[2]
            assert b"[DONE]" in last or b'"error"' in last or b'"finish_reason":"' in last, text[-300:]
        assert [answer_of(connection)[0] for connection in (joined, waiting)] == [503, 503]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_second_signal_ends_it_at_once(endless_run: Path, tmp_path: Path, dial: Dial) -> None:
    """Here the first one would take a minute."""
    before = "import microgpt.serve.ending as e, microgpt.serve.server as s; e.LEAVE_SECONDS = s.GRACE_SECONDS = 60"
    with serving(endless_run, log=tmp_path / "log", before=before) as server:
        dial(server.port, request("/v1/completions", STREAM)).recv(100)
        server.process.send_signal(signal.SIGTERM)
        while server.post(GENERATE, {"max_tokens": 1}).status_code != 503:
            time.sleep(0.01)
        assert status_after(server.process) == -signal.SIGTERM


def test_it_ends_without_a_worker_that_computes(endless_run: Path, tmp_path: Path, dial: Dial) -> None:
    """A step that takes a minute is not waited for; its stream is told."""
    before = HANGS.format(module="scheduler", name="Scheduler._computed")
    with serving(endless_run, log=tmp_path / "log", before=before) as server:
        stream = dial(server.port, request("/v1/completions", STREAM))
        assert b" 200 " in stream.recv(100)
        assert status_after(server.process) == 0
        assert b'"error"' in read_all([stream])[0]


def test_it_ends_though_the_end_hangs(endless_run: Path, tmp_path: Path) -> None:
    """The last deadline is kept without the event loop."""
    with serving(endless_run, log=tmp_path / "log", before=HANGS.format(module="server", name="end")) as server:
        assert status_after(server.process) == 0


def test_it_ends_though_a_client_does_not_read(endless_run: Path, tmp_path: Path, dial: Dial) -> None:
    with serving(endless_run, log=tmp_path / "log") as server:
        body = STREAM | {"n": 32, "logprobs": 20}
        stream = dial(server.port, request("/v1/completions", body), buffer=4096)
        assert b" 200 " in stream.recv(100)
        assert status_after(server.process) == 0


def test_health_and_a_signal_while_it_loads(endless_run: Path, tmp_path: Path) -> None:
    """503 while a model is loaded, for which nobody waits; 200 after it."""
    port, go = free_port(), tmp_path / "go"
    before = f"""
import os, time
import microgpt.serve.models as m
loaded = m.load_all
def load(*arguments, **options):
    while not os.path.exists({str(go)!r}):
        time.sleep(0.01)
    return loaded(*arguments, **options)
m.load_all = load
"""
    for attempt in ("signal", "load"):
        with started(endless_run, log=tmp_path / "log", before=before, port=str(port)) as process:
            assert health(port, process) == 503
            if attempt == "signal":
                assert status_after(process) == 0
                assert process.stdout
                assert process.stdout.read() == ""
                continue
            go.touch()
            assert process.stdout
            assert process.stdout.readline() == f"listening on http://127.0.0.1:{port}\n"
            assert health(port, process) == 200
    assert "Traceback" not in (tmp_path / "log").read_text()


def health(port: int, process: subprocess.Popen[str]) -> int:
    """The status of /health, as soon as there is an answer."""
    with httpx2.Client(timeout=SECONDS) as client:
        while True:
            try:
                return client.get(f"http://127.0.0.1:{port}/health").status_code
            except httpx2.ConnectError:
                assert process.poll() is None
                time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts(endless_run: Path, tmp_path: Path, number: int) -> None:
    """Before the service is imported."""
    before = f"""
import os, time
import microgpt.commands.serve as s
def models(*arguments):
    os.kill(os.getpid(), {int(number)})
    time.sleep(60)
s._models = models
"""
    with started(endless_run, log=tmp_path / "log", before=before) as process:
        assert process.wait(30) == 0
    assert (tmp_path / "log").read_text() == ""


def test_a_signal_while_it_loads_a_model_that_cannot_be_loaded(endless_run: Path, tmp_path: Path) -> None:
    """The signal came first: it ends in good order, and what became of the model is not told."""
    before = """
import os, signal, time
import microgpt.serve.models as m
from microgpt.errors import UsageError
def load(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    raise UsageError("as of a wrong flag")
m.load_all = load
"""
    with started(endless_run, log=tmp_path / "log", before=before) as process:
        assert process.wait(30) == 0
    assert (tmp_path / "log").read_text() == ""
