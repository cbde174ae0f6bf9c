"""The training loop: its reports and its state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.runs import checkpoint
from microgpt.training.samples import ANSWER_TOKENS, EXCHANGES
from microgpt.training.train import train
from microgpt.training.trainer import Trainer
from tests.chats import tiny, write
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


def test_samples_of_a_chat_model_are_three_short_exchanges(tmp_path: Path) -> None:
    questions = ["hi", "how are you " * 20]
    talks = [
        [{"role": "user", "content": questions[i % 2]}, {"role": "assistant", "content": "fine " * 30}]
        for i in range(20)
    ]
    config = tiny(
        write(tmp_path / "talks.jsonl", talks),
        model={"block_size": 256},
        run={"steps": 40, "samples": None, "temperature": 0.0},
    )
    samples = train(config, tmp_path / "run").samples
    assert len(samples) == EXCHANGES == 3
    for sample in samples:
        asked, _, answer = sample.partition("\n")
        assert asked == "> hi"
        assert 0 < len(answer.removesuffix(" …\n")) <= ANSWER_TOKENS
    assert any(sample.endswith(" …\n") for sample in samples)
