"""A model folder without its weights: description and checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.errors import CheckpointError
from microgpt.runs import checkpoint, model_folder


@pytest.fixture
def folder(names_run: Path, tmp_path: Path) -> Path:
    saved = checkpoint.read(names_run)
    for name, data in model_folder.describe(saved.config, saved.tokenizer, "float32", 3, 1.5).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "model.safetensors").write_bytes(bytes(99))
    return tmp_path


def test_the_description_is_read_back(folder: Path, names_run: Path) -> None:
    saved = checkpoint.read(names_run)
    config, tokenizer = model_folder.read(folder, None)
    assert config == saved.config
    assert tokenizer.to_json() == saved.tokenizer.to_json()
    keys = json.loads((folder / "config.json").read_text())
    assert (keys["dtype"], keys["vocab_size"], keys["bos_token_id"]) == ("float32", config.model.vocab, tokenizer.bos)
    assert "3 of " in (folder / "README.md").read_text()
    assert "last loss 1.5000" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        (None, {"microgpt": None}, "not a microgpt model"),
        ("model", {"vocab_size": None}, r"vocab_size"),
        ("model", {"vocab_size": 5}, "but the model has 5"),
        ("model", {"n_layer": 100}, "100 layers do not fit"),
        ("model", {"n_embd": -1}, "n_embd"),
    ],
    ids=str,
)
def test_a_wrong_description_is_refused(folder: Path, section: str | None, change: dict[str, Any], said: str) -> None:
    whole = json.loads((folder / "config.json").read_text())
    part = whole["microgpt"][section] if section else whole
    part |= change
    (folder / "config.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match=said):
        model_folder.read(folder, None)
