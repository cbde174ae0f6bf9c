"""Trainings by HTTP: planned, started, stopped and resumed, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.running import Server, serving

LONG = 2_000_000_000  # steps, more than any test waits for; small models write hundreds of thousands of them per second


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server of a folder in which there is no run yet."""
    folder = tmp_path_factory.mktemp("trainings")
    (folder / "runs").mkdir()
    with serving(folder / "runs", log=folder / "log") as server:
        yield server, folder / "runs"


def run_of(server: Server, name: str) -> dict[str, Any]:
    found = [run for run in server.get("/api/runs").json()["runs"] if run["name"] == name]
    return found[0] if found else {}


def wait(good: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_training_is_planned_started_stopped_and_resumed(empty: tuple[Server, Path]) -> None:
    server, folder = empty
    body = {"text": "emma\nolivia\nava\nmia\n" * 20, "name": "girls", "steps": LONG, "size": "mini"}
    plan = server.post("/api/trainings/plan", body).json()
    assert (plan["documents"], plan["held_out"], plan["steps"]) == (80, 8, LONG)
    assert plan["parameters"] > 1000
    assert not list(folder.iterdir())  # a plan leaves nothing
    assert server.post("/api/trainings/start", body).json() == {"run": "girls"}
    wait(lambda: run_of(server, "girls").get("state") == "running" and run_of(server, "girls")["steps_done"])
    assert server.post("/api/trainings/girls/resume", {}).status_code == 409
    assert server.post("/api/trainings/girls/stop", {}).json() == {"run": "girls"}
    assert server.post("/api/trainings/girls/stop", {}).status_code == 200  # or a second click
    wait(lambda: server.get("/api/trainings").json()["trainings"][0]["ended"] is not None)
    assert run_of(server, "girls")["state"] == "stopped"
    reached = run_of(server, "girls")
    assert reached["checkpoints"][-1]["step"] == reached["steps_done"]
    assert server.post("/api/trainings/girls/stop", {}).status_code == 409
    assert server.post("/api/trainings/girls/resume", {}).json() == {"run": "girls"}
    wait(lambda: run_of(server, "girls")["steps_done"] > reached["steps_done"])
    assert server.post("/api/trainings/girls/stop", {}).status_code == 200
    wait(lambda: server.get("/api/trainings").json()["trainings"][0]["ended"] is not None)
    known = server.get("/api/trainings").json()
    assert (known["may_train"], known["may_control"]) == (True, True)
    assert [(training["run"], training["ended"]) for training in known["trainings"]] == [("girls", 130)]
    assert server.post("/api/trainings/start", {"scenario": "names", "name": "girls", "steps": 1}).json() == {
        "run": "girls-2"
    }
    wait(lambda: run_of(server, "girls-2").get("state") == "finished")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "give a scenario or a text"),
        ({"scenario": "names", "text": "a"}, "give a scenario or a text"),
        ({"scenario": "nobody"}, "no scenario is called 'nobody'"),
        ({"scenario": "../names"}, "no scenario is called"),
        ({"scenario": "names", "size": "huge"}, "no size is called 'huge'"),
        ({"scenario": "names", "steps": 0}, "steps"),
        ({"scenario": "names", "name": "../x"}, "name: expected up to 64 letters"),
        ({"scenario": "names", "name": "-x"}, "name: expected up to 64 letters"),
        ({"text": "one document"}, "too few to hold out"),
        ({"scenario": "names", "lr": 1}, "lr"),
    ],
)
def test_what_is_no_training_is_refused(empty: tuple[Server, Path], body: dict[str, Any], sentence: str) -> None:
    answer = empty[0].post("/api/trainings/start" if "name" in body else "/api/trainings/plan", body)
    assert answer.status_code in (400, 422)
    assert sentence in answer.json()["error"]


def test_what_may_not_be_trained_where(names_run: Path, empty: tuple[Server, Path], tmp_path: Path) -> None:
    assert empty[0].post("/api/trainings/nobody/stop", {}).status_code == 404
    with serving(names_run, log=tmp_path / "one") as server:
        assert server.post("/api/trainings/start", {"scenario": "names"}).status_code == 403
        assert server.get("/api/trainings").json()["may_train"] is False
    (tmp_path / "none").mkdir()
    with serving(tmp_path / "none", "--host", "0.0.0.0", "--insecure", log=tmp_path / "log") as server:
        assert (
            server.post("/api/trainings/start", {"scenario": "names"}, Host=f"127.0.0.1:{server.port}").status_code
            == 403
        )
        assert server.post("/api/trainings/x/stop", {}, Host=f"127.0.0.1:{server.port}").status_code == 403


def test_a_training_of_a_terminal_is_stopped_once(tmp_path: Path) -> None:
    """A second signal would end it before it has saved."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "names.txt").write_text("emma\nolivia\n" * 20, encoding="utf-8")
    out = tmp_path / "runs" / "mine"
    words = ["train", str(tmp_path / "names.txt"), "--out", str(out), "--steps", str(LONG), "--size", "mini"]
    slow = "import time; from microgpt.training.trainer import Trainer; save = Trainer.save\n"
    slow += "def slowly(self): time.sleep(1); save(self)\nTrainer.save = slowly\n"
    code = f"{slow}import sys; from microgpt.cli import main; sys.exit(main({words}))"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        try:
            with serving(tmp_path / "runs", log=tmp_path / "log") as server:
                wait(lambda: run_of(server, "mine").get("steps_done"))
                for _ in range(3):
                    assert server.post("/api/trainings/mine/stop", {}).status_code == 200
                assert process.wait(60) == 130
                assert run_of(server, "mine")["checkpoints"]
        finally:
            process.kill()
