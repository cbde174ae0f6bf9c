"""A step by HTTP: the run's own or of a document, refused by name where it cannot be, and the differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.config import Model
from microgpt.engines.ladder import engine
from microgpt.engines.walkthrough.operations import operations
from microgpt.optim import rate_of_run
from microgpt.runs import checkpoint
from microgpt.serve.api.differences import require_comparable
from microgpt.serve.errors import ApiError
from microgpt.training.prepare import prepare
from tests.serve.running import Server


def step(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.post("/api/step", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_step_of_a_run(page_server: Server, runs_folder: Path) -> None:
    """Its tokens are those that the training took next, its update the one of the engine on that row."""
    found = step(page_server, model="names@40")
    saved = checkpoint.read(runs_folder / "names", 40)
    setup = prepare(saved.config, source=saved)
    row, _ = next(setup.feed(40, 1).rows(0))
    assert found["tokens"] == row
    assert (found["model"], found["step"], found["steps"]) == ("names@40", 40, 100)
    assert found["notes"] == ["the run trains on 4 documents per step; here it is the first of them alone"]
    assert found["lr"] == rate_of_run(saved.config, 40)
    assert [each["name"] for each in found["operations"]] == [each.name for each in operations(saved.config.model)]
    assert found["vocabulary"][row[0]] == "<bos>"

    from microgpt.feed import pack

    built = engine("manual")(saved.config.model, saved.config.optim, dtype="float64", threads=1)
    state, losses = built.train(built.load(saved.tensors()), pack([row], first_step=40), np.array([found["lr"]]))
    after = built.dump(state)
    assert found["arrays"]["loss"]["values"] == pytest.approx(losses, abs=1e-12)
    for name, weight in found["weights"].items():
        assert weight["values"] == saved.weights()[name].astype(float).ravel().tolist()
        for part, key in (("", "new_values"), ("m.", "new_m"), ("v.", "new_v")):
            assert np.abs(np.array(weight[key]) - after[part + name].ravel()).max() < 1e-9


def test_a_document_of_ones_own(page_server: Server) -> None:
    found = step(page_server, model="names@20", text="ava")
    assert "".join(found["vocabulary"][token] for token in found["tokens"]) == "<bos>ava<bos>"
    assert "the document is yours" in found["notes"][0]
    assert found["arrays"]["layer0.attention"]["shape"] == [4, 4, 4]
    assert found["arrays"]["layer0.attention"]["values"][:4] == [1, None, None, None]  # the rest is masked


def test_a_finished_run_says_so(page_server: Server, runs_folder: Path) -> None:
    found = step(page_server, model="names@100", text="mia")
    assert any("made all its steps" in note for note in found["notes"])
    assert found["lr"] == rate_of_run(checkpoint.read(runs_folder / "names", 100).config, 99) > 0


@pytest.mark.parametrize("model", ["talk", "bytes"])
def test_other_tokenizers_and_chats(page_server: Server, model: str) -> None:
    found = step(page_server, model=model)
    assert len(found["arrays"]["losses"]["values"]) == len(found["tokens"]) - 1


def test_what_is_refused(page_server: Server) -> None:
    for status, body, part in (
        (404, {"model": "nobody"}, "does not exist"),
        (404, {"model": "names@41"}, "no checkpoint"),
        (422, {"model": "names", "text": "Ω"}, "text:"),
        (422, {"model": "names", "text": ""}, "text"),
        (422, {"model": "names", "text": "a" * 10_001}, "text"),
        (422, {"model": "names", "texts": "a"}, "texts"),
    ):
        answer = page_server.post("/api/step", body)
        assert answer.status_code == status, answer.text
        assert part in answer.json()["error"]


def test_the_sources_of_steps(page_server: Server) -> None:
    found = page_server.post("/api/step/sources", {"model": "names"}).json()["sources"]
    assert [source["name"] for source in found] == ["gpt.py", "scalar.py", "tensor.py", "manual.py", "optim.py"]
    gpt = found[0]
    assert "query = linear(h" in gpt["text"].split("\n")[gpt["forward"]["layer0.query"][0] - 1]
    assert "p.data -= lr" in gpt["text"].split("\n")[gpt["update"][-1] - 1]


def test_two_checkpoints_differ_at_a_number(page_server: Server, runs_folder: Path) -> None:
    found = page_server.post("/api/differ/models", {"a": "names@40", "b": "names@60"}).json()
    a, b = (checkpoint.read(runs_folder / "names", step).weights() for step in (40, 60))
    assert found["first"] == "wte"
    first = found["arrays"][0]
    at = tuple(first["first"])
    assert first["values"] == [float(a["wte"][at]), float(b["wte"][at])]
    assert first["values"][0] != first["values"][1]
    assert np.array_equal(a["wte"].ravel()[: np.ravel_multi_index(at, a["wte"].shape)],
                          b["wte"].ravel()[: np.ravel_multi_index(at, a["wte"].shape)])  # fmt: skip
    same = page_server.post("/api/differ/models", {"a": "names@40", "b": "names@40"}).json()
    assert (same["first"], same["missing"]) == (None, [])
    other = page_server.post("/api/differ/models", {"a": "names@40", "b": "talk"}).json()
    assert other["first"] == "wte"
    assert other["arrays"][0]["shapes"]


def test_models_that_are_compared_have_a_limit() -> None:
    require_comparable(Model(vocab_size=27), "a")
    with pytest.raises(ApiError, match="up to 100,000,000 are compared"):
        require_comparable(Model(vocab_size=27, n_embd=1024, n_layer=12, n_head=16), "b")


def test_two_rungs_differ_at_a_number(page_server: Server) -> None:
    rungs = page_server.get("/api/rungs").json()["rungs"]
    assert {"name": "manual", "dtype": "float32"} in rungs
    a, b = {"name": "scalar", "dtype": "float64"}, {"name": "manual", "dtype": "float32"}
    found = page_server.post("/api/differ/rungs", {"model": "names@40", "text": "ava", "a": a, "b": b}).json()
    assert (found["a"], found["b"], found["first"]) == ("scalar float64", "manual float32", "logits")
    assert 0 < max(each["largest"] for each in found["arrays"]) < 1e-4
    found = page_server.post("/api/differ/rungs", {"model": "names@40", "text": "ava", "a": a, "b": a}).json()
    assert found["first"] is None
    answer = page_server.post("/api/differ/rungs", {"a": a, "b": {"name": "scalar", "dtype": "float32"}})
    assert (answer.status_code, "float32" in answer.json()["error"]) == (422, True)
