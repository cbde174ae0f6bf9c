"""A service of a folder of runs: what it lists, and NAME@STEP, NAME@last and NAME@best as names of models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import microgpt
from microgpt.config import Config
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder
from microgpt.serve.catalog import Catalog
from microgpt.serve.errors import ApiError
from tests.runs.test_selection import with_best
from tests.serve.running import Server, serving

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def folder(names_run: Path, chat_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `kept` with checkpoints 100 (the best), 150 and 200; a chat model; a bare run."""
    folder = tmp_path_factory.mktemp("folder")
    with_best(names_run, folder / "kept")
    shutil.copytree(chat_run, folder / "chat")
    RunFolder(folder / "bare").path.mkdir()
    (folder / "bare" / "run.toml").write_text(Config(description=HOSTILE).to_toml(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(folder, "--max-models", "3", log=tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


def listed(server: Server) -> dict[str, Any]:
    return {run["name"]: run for run in server.get("/api/runs").json()["runs"]}


def completion(server: Server, **body: Any) -> Any:
    return server.post("/v1/completions", {"prompt": "", "seed": 1, "temperature": 1, "max_tokens": 9, **body})


def test_all_runs_of_the_folder_are_listed(server: Server) -> None:
    runs = listed(server)
    assert set(runs) == {"kept", "chat", "bare"}
    assert runs["kept"]["checkpoints"] == [
        {"step": 100, "best": True},
        {"step": 150, "best": False},
        {"step": 200, "best": False},
    ]
    assert (runs["chat"]["chat"], runs["kept"]["chat"]) == (True, False)
    bare = runs["bare"]
    assert (bare["model"], bare["state"], bare["steps_done"], bare["steps_planned"]) == (False, "stopped", 0, 1000)
    assert bare["description"] == HOSTILE
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["chat", "kept"]
    assert server.get("/health").status_code == 200


def test_details_hold_the_configuration(server: Server) -> None:
    found = server.get("/api/runs/kept").json()
    assert found["configuration"]["model"]["n_embd"] == 16
    assert found["data"]["documents"]
    assert found["steps_done"] == 200
    for name in ("nobody", "kept@100", "%2e%2e", "kept%2Fcheckpoints", "%00", "x" * 300):
        assert server.get(f"/api/runs/{name}").status_code == 404, name


def test_checkpoints_are_models(server: Server, folder: Path) -> None:
    """Wherever a model's name does, in the text that the checkpoint gives."""
    for name, which in (("kept", None), ("kept@150", 150), ("kept@last", "last"), ("kept@best", "best")):
        model = microgpt.load(folder / "kept", checkpoint=which)
        expected = model.generate("", seed=1, temperature=1, max_tokens=9).read()
        answer = completion(server, model=name)
        assert answer.json()["choices"][0]["text"] == expected, name
        assert server.get(f"/v1/models/{name}").json()["id"] == name
        assert server.post("/tokenize", {"model": name, "content": "a"}).json()["tokens"]
    assert completion(server, model="kept@00150").status_code == 200


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("kept@7", 404, "has no checkpoint '7'; 100, 150, 200"),
        ("kept@", 404, "does not exist"),
        ("kept@-1", 404, "no checkpoint"),
        ("kept@١٠٠", 404, "no checkpoint"),
        ("kept@" + "9" * 200, 404, "no checkpoint"),
        ("kept@first", 404, "no checkpoint"),
        ("nobody@last", 404, "does not exist"),
        ("../kept", 404, "does not exist"),
        ("./kept", 404, "does not exist"),
        ("kept/checkpoints/step-00000100", 404, "does not exist"),
        ("", 400, "model"),
        ("bare", 503, "the run 'bare' has no checkpoint yet"),
        ("bare@last", 503, "the run 'bare' has no checkpoint yet"),
    ],
)
def test_names_that_are_no_models(server: Server, name: str, status: int, says: str) -> None:
    answer = completion(server, model=name)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text


def test_runs_appear_change_and_go(server: Server, folder: Path) -> None:
    """New runs are there at once, @last is the newest checkpoint of the moment, and a run may have an @ in its name."""
    new = folder / "new@1"
    assert completion(server, model="new@1").status_code == 404
    shutil.copytree(folder / "kept", new)
    os.utime(new / "checkpoints")
    assert completion(server, model="new@1").status_code == 200
    assert completion(server).json()["model"] == "new@1"  # the one that was saved last is the default
    before = completion(server, model="new@1@last").json()
    shutil.rmtree(new / "checkpoints" / "step-00000200")
    after = completion(server, model="new@1@last").json()
    assert before["choices"] != after["choices"]
    assert after["choices"] == completion(server, model="kept@150").json()["choices"]
    shutil.rmtree(new)
    assert "new@1" not in listed(server)
    assert server.get("/api/runs/new@1").status_code == 404


def test_none_at_all_is_fine(folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with serving(runs, log=tmp_path / "log") as server:
        assert server.get("/health").status_code == 200
        assert server.get("/api/runs").json() == {"runs": [], "may_train": True}
        assert completion(server).status_code == 503
        assert "there is no model yet; microgpt train names makes one" in completion(server).text
        shutil.copytree(folder / "kept", runs / "first")
        assert completion(server).status_code == 200


def test_a_run_without_a_checkpoint_alone(folder: Path, tmp_path: Path) -> None:
    with serving(folder / "bare", log=tmp_path / "log") as server:
        assert server.get("/health").status_code == 200
        assert list(listed(server)) == ["bare"]
        assert completion(server).status_code == 503


def test_one_run_has_its_checkpoints_too(folder: Path) -> None:
    catalog = Catalog({"kept": (folder / "kept",), "model": (checkpoint.find(folder / "kept"),)})
    assert catalog.default() == "kept"
    assert catalog.models() == ["kept", "model"]
    assert catalog.find("kept@best") == ("kept@100", (folder / "kept",), 100)
    assert catalog.find("model").step is None
    with pytest.raises(ApiError, match="one model without checkpoints"):
        catalog.find("model@last")
    with pytest.raises(ApiError, match="does not exist"):
        catalog.find("chat")  # beside it, in no folder that was given
