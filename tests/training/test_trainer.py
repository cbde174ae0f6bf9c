"""The training loop: its reports and its state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.runs import checkpoint
from microgpt.training.train import train
from microgpt.training.trainer import Trainer
from tests.training.runs import small


def test_the_reported_loss_is_the_mean_of_the_last_fifty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not of the steps since the last line, which the clock decides."""
    text, run = tmp_path / "a.txt", tmp_path / "run"
    text.write_text("anna\nbob\ncarl\n", encoding="utf-8")
    assert main(["train", str(text), "--steps", "120", "--n-embd", "8", "--samples", "0", "--out", str(run)]) == 0
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert f"step 120 / 120  loss {np.mean(losses[-50:]):.4f}" in capsys.readouterr().err


def test_the_state_dict_is_the_file_that_a_checkpoint_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, Any]] = []

    def state_dict(self: Trainer, real: Any = Trainer.state_dict) -> dict[str, Any]:
        states.append(real(self))
        return states[-1]

    monkeypatch.setattr(Trainer, "state_dict", state_dict)
    train(small(tmp_path, checkpoint_every=10), tmp_path / "run")
    assert [state["step"] for state in states] == [10, 20]
    saved = checkpoint.read(tmp_path / "run")
    assert saved.state == states[-1]
    assert saved.trainer().model_dump() == states[-1]
