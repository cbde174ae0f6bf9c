"""A model folder without its weights: description and checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.errors import CheckpointError
from microgpt.runs import checkpoint, model_folder

STATE = {"loss": 9.9, "val_loss": 1.5, "bits_per_byte": 2.25, "evaluated": 2}


@pytest.fixture
def folder(names_run: Path, tmp_path: Path) -> Path:
    saved = checkpoint.read(names_run)
    for name, data in model_folder.describe(saved.config, saved.tokenizer, "float32", 3, STATE).items():
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


def test_the_card_has_the_held_out_figures_and_no_local_path(folder: Path, names_run: Path, tmp_path: Path) -> None:
    card = (folder / "README.md").read_text()
    assert "- trained: 3 of " in card
    assert "- held-out loss: 1.5000 nats per token, 2.2500 bits per byte, at step 2\n" in card
    assert "9.9" not in card, "the loss of one step says little"
    saved = checkpoint.read(names_run)
    sections = {"data": {"path": str(tmp_path / "mine.txt")}, "finetune": {"base": str(tmp_path / "runs" / "old")}}
    config = saved.config.replace(**sections)
    for state, said in (({"evaluated": 4, "val_loss": 1.5}, "- held-out loss: 1.5000 nats per token\n"), ({}, None)):
        card = model_folder.describe(config, saved.tokenizer, "float32", 4, state)["README.md"].decode()
        assert str(tmp_path) not in card
        assert "- data: mine.txt\n- fine-tuned from: old\n" in card
        assert (said in card) if said else ("held-out" not in card)


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
