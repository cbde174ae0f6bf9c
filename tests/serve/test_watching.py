"""Metrics by HTTP: thinned, in parts, and live while a training goes on, dies, is resumed; until the service ends."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from microgpt.config import Config
from microgpt.runs import sample_log
from microgpt.serve.limits import most
from tests.chats import tiny
from tests.serve.running import Server, serving

LIVE, METRICS = "/api/metrics/live", "/api/metrics"
Events = Iterator[dict[str, Any]]


def line(step: int, loss: float = 2.0) -> str:
    return json.dumps({"step": step, "loss": loss, "lr": 0.01, "tokens": 8 * step, "seconds": step / 100}) + "\n"


def make_run(folder: Path, lines: str) -> Path:
    folder.mkdir()
    (folder / "run.toml").write_text(Config().replace(model={"vocab_size": 27}).to_toml(), encoding="utf-8")
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    make_run(folder / "long", "".join(line(step, 9.5 if step == 5003 else 2.0) for step in range(1, 10001)))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(folder, log=tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


@contextlib.contextmanager
def watching(server: Server, *runs: str, points: int = 100) -> Iterator[Events]:
    """The events of a stream; one that does not come within a minute is a failure."""
    body = {"runs": list(runs), "points": points}
    with server.client.stream("POST", LIVE, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        yield _parsed(answer)


def _parsed(answer: httpx2.Response) -> Events:
    deadline = time.monotonic() + 60  # comments keep the connection alive
    for line in answer.iter_lines():
        assert time.monotonic() < deadline, "what is waited for does not come"
        if line.startswith("data: "):
            yield json.loads(line[6:])


def until(events: Events, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    return next(found for found in events if wanted(found))


def test_a_history_is_thinned_and_keeps_its_extremes(server: Server) -> None:
    found = server.post(METRICS, {"run": "long", "points": 200}).json()
    assert found["rows"] == 10000
    assert 100 < len(found["training"]["step"]) <= 202
    assert max(found["training"]["loss"]) == 9.5
    part = server.post(METRICS, {"run": "long", "first": 5000, "last": 5010, "points": 200}).json()["training"]
    assert part["step"] == list(range(5001, 5011))
    assert part["loss"][2] == 9.5
    assert part["tokens"][0] == 8 * 5001


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (METRICS, {"run": "nobody"}, 404),
        (METRICS, {"run": "../long"}, 404),
        (METRICS, {"run": "long", "points": 4001}, 422),
        (METRICS, {"run": "long", "first": -1}, 422),
        (METRICS, {"run": "long", "extra": 1}, 422),
        (LIVE, {"runs": []}, 422),
        (LIVE, {"runs": ["long", "nobody"]}, 404),
        (LIVE, {"runs": ["long"] * 9}, 422),
    ],
)
def test_bodies_that_are_refused(server: Server, path: str, body: dict[str, Any], status: int) -> None:
    answer = server.post(path, body)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})


def test_a_run_is_followed(server: Server, folder: Path) -> None:
    """Its facts, curves and samples; lines as they come, torn ones when they are whole; a file written anew."""
    run = make_run(folder / "grown", line(1) + line(2))
    metrics = run / "metrics.jsonl"
    with watching(server, "grown", "grown", "long") as events:
        first = [next(events) for _ in range(4)]
        assert [(found["run"], found["kind"]) for found in first] == [
            ("grown", "facts"), ("grown", "history"), ("long", "facts"), ("long", "history"),
        ]  # fmt: skip
        assert first[0]["facts"]["steps_done"] == 2
        assert first[1]["series"]["training"]["step"] == [1, 2]
        with metrics.open("a") as file:
            file.write(line(3) + '{"step": 3, "val_loss": 2.5, "bits_per_byte": 1.5}\n' + line(4)[:9])
        grown = until(events, lambda found: found["kind"] == "grown")["series"]
        assert (grown["training"]["step"], grown["held_out"]["val_loss"]) == ([3], [2.5])
        with metrics.open("a") as file:
            file.write(line(4)[9:])
        assert until(events, lambda found: found["kind"] == "grown")["series"]["training"]["step"] == [4]
        new = run / "new"
        new.write_text(line(1) + line(2))
        new.replace(metrics)
        anew = until(events, lambda found: found["kind"] == "history")
        assert anew["series"]["training"]["step"] == [1, 2]
        sample_log.add(run / "samples.jsonl", 2, ["<script>alert(1)</script>"])
        told = until(events, lambda found: found["kind"] == "samples")["samples"]
        assert told == [{"step": 2, "text": "<script>alert(1)</script>", "final": False}]
        run.rename(folder / "elsewhere")
        assert until(events, lambda found: found["kind"] == "gone")["run"] == "grown"
        (folder / "elsewhere").rename(run)
        assert until(events, lambda found: found["kind"] == "history")["run"] == "grown"


def test_watchers_are_counted_and_forgotten(server: Server) -> None:
    body = {"runs": ["long"], "points": 16}
    with contextlib.ExitStack() as open_ones:
        watched = [open_ones.enter_context(watching(server, "long")) for _ in range(most("watchers"))]
        assert {next(events)["kind"] for events in watched} == {"facts"}
        with server.client.stream("POST", LIVE, json=body) as refused:
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert server.get("/api/runs").status_code == 200
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with server.client.stream("POST", LIVE, json=body) as answer:
            if answer.status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail("the watchers that left are still counted")


def test_losses_to_beat(server: Server, folder: Path, tmp_path: Path) -> None:
    """Of a real run; without a checkpoint, or without its text, the reason is told."""
    from microgpt.training.train import train

    text = tmp_path / "names.txt"
    text.write_text("emma\nolivia\nava\n" * 20, encoding="utf-8")
    config = Config.from_dict({"data": {"path": str(text)}, "run": {"steps": 2, "samples": 0}})
    train(config, folder / "told")
    found = server.get("/api/runs/told/baselines").json()
    assert found["bigram"] < found["unigram"] < found["uniform"]
    assert (found["on"], found["reason"]) == ("training", None)
    text.unlink()
    assert server.get("/api/runs/told/baselines").json() == found  # it is remembered
    bare = server.get("/api/runs/long/baselines").json()
    assert (bare["reason"], bare["uniform"], bare["bigram"]) == ("there is no checkpoint yet", math.log(27), None)
    (folder / "told").rename(folder / "moved")
    assert "no such file" in server.get("/api/runs/moved/baselines").json()["reason"]
    assert server.get("/api/runs/nobody/baselines").status_code == 404


def test_a_training_is_watched_killed_and_resumed(server: Server, folder: Path, talks: Path, tmp_path: Path) -> None:
    """kill -9 leaves a run that is told as stopped; --resume begins its curve anew from the checkpoint."""
    settings = {"steps": 10**6, "checkpoint_every": 20, "sample_every": 20, "samples": 0}
    (tmp_path / "own.toml").write_text(tiny(talks, run=settings).to_toml(), encoding="utf-8")
    command = [sys.executable, "-m", "microgpt", "train", str(tmp_path / "own.toml"), "--out", str(folder / "live")]
    no_output: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **no_output) as training:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "live" / "samples.jsonl").exists():
                assert time.monotonic() < deadline
                assert training.poll() is None
                time.sleep(0.05)
            with watching(server, "live") as events:
                assert until(events, lambda found: found["kind"] == "facts")["facts"]["state"] == "running"
                until(events, lambda found: found["kind"] == "samples")
                until(events, lambda found: found["kind"] == "grown")
                os.kill(training.pid, signal.SIGKILL)
                training.wait()
                stopped = until(events, lambda found: found.get("facts", {}).get("state") == "stopped")
                assert stopped["facts"]["checkpoints"]
                saved = stopped["facts"]["checkpoints"][-1]["step"]
                again = [*command[:4], "--resume", "--out", str(folder / "live"), "--stop-at", str(saved + 30)]
                subprocess.run(again, check=True, timeout=120, **no_output)
                ended = until(events, lambda found: found.get("facts", {}).get("steps_done") == saved + 30)
                assert ended["facts"]["model"]
        finally:
            training.kill()


def test_a_stream_ends_with_the_service(folder: Path, tmp_path: Path) -> None:
    with serving(folder, log=tmp_path / "log") as server, watching(server, "long") as events:
        until(events, lambda found: found["kind"] == "history")
        server.process.terminate()
        assert "shutting down" in until(events, lambda found: "error" in found)["error"]
        assert server.process.wait(10) == 0
