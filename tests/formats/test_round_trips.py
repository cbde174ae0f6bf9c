"""The names and the chat model, trained for a moment, through every export and import that holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.config import Config
from microgpt.errors import UsageError
from microgpt.formats import FORMATS, export
from microgpt.formats.imports import import_model
from microgpt.runs import checkpoint
from microgpt.scenarios import scenario
from microgpt.training.train import train
from tests.formats.conftest import logits
from tests.formats.test_gguf import compute, open_there
from tests.formats.test_onnx import run

BOUND = 1e-5
HOLDS = {
    "names": {"safetensors", "kgx", "moonbase", "onnx", "html"},
    "names_kgx": {"safetensors", "kgx", "onnx", "html"},
    "chat": {"safetensors", "hf", "gguf", "onnx", "html"},
}


@pytest.fixture(scope="module", params=HOLDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, given_names_file: Path) -> Path:
    """A scenario's own model after a few steps."""
    folder = tmp_path_factory.mktemp(request.param)
    data: dict[str, Any] = {"path": str(given_names_file)}
    run_: dict[str, Any] = {"steps": 30, "samples": 0, "eval_every": 0}
    if request.param == "chat":
        talk = [{"role": "user", "content": "hi née"}, {"role": "assistant", "content": "hello there 🙂"}]
        (folder / "chats.jsonl").write_text(f"{json.dumps(talk)}\n" * 20)
        data = {"path": str(folder / "chats.jsonl"), "tokenizer_size": 300}
        run_["steps"] = 5
    base = scenario(request.param)
    sections = {"data": {**base["data"], **data}, "run": {**base["run"], **run_}}
    sections["data"].pop("dataset", None)
    train(Config.from_dict({**base, **sections}), folder / request.param)
    return folder / request.param


@pytest.fixture(scope="module")
def given_names_file() -> Path:
    from microgpt.data import datasets

    return Path(datasets.__file__).with_name("given_names.txt")


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_logits_come_back(trained: Path, tmp_path: Path, to: str) -> None:
    if to not in HOLDS[trained.name]:
        with pytest.raises(UsageError, match=r"cannot hold this model: .* = "):
            export(trained, to, tmp_path / "out")
        return
    bos = checkpoint.read(trained).tokenizer.bos
    ids = [bos, *range(3, 10)]
    ours = logits(trained, ids)
    out = tmp_path / ("out.json" if to == "kgx" else "out")
    export(trained, to, out)
    if to == "safetensors":
        theirs = logits(out, ids)
    elif to in ("moonbase", "kgx", "hf"):
        theirs = logits(import_model(out, tmp_path / "back").path, ids)
    elif to == "gguf":
        theirs = compute(*open_there(out), ids)
    elif to == "onnx":
        theirs = run(out, [ids[:3], ids[3:]])[0]
    else:
        assert b"<script" in out.read_bytes()  # what it computes: test_html.py, in a browser
        return
    assert np.abs(ours).max() > 0.01
    assert np.abs(theirs - ours).max() < BOUND
