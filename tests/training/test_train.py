"""A run from its command or function call to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.errors import MachineError, UsageError
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder
from microgpt.training.prepare import RunSetup
from microgpt.training.report import Callbacks
from microgpt.training.resume import SavedRun, resumed
from microgpt.training.train import train
from microgpt.training.trainer import Trainer
from tests.training.runs import small


def test_the_plan_tells_what_is_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An engine of run.toml was not asked for by whoever goes on; a short run takes no time worth a number."""
    out = tmp_path / "run"
    train(small(tmp_path, engine="manual"), out)
    assert main(["train", "--resume", "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "engine  manual in float64: as configured\n" in said
    assert "steps   20 of 1 document, under a second\n" in said


@pytest.mark.parametrize("step", [None, 6])
def test_what_can_go_on_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, step: int | None
) -> None:
    """A disk that fails on the way can be mended; one that fails first is not helped by the same command."""
    out, save = tmp_path / "run", Trainer.save

    def full(self: Trainer, *saved: SavedRun) -> None:
        if step is None or self.step > step:
            raise MachineError("full")
        save(self)

    train(small(tmp_path, checkpoint_every=5), out, stop_at=5)
    monkeypatch.setattr(Trainer, "save" if step else "restore", full)
    assert main(["train", "--resume", "--out", str(out)]) == 5
    said = capsys.readouterr().err
    assert (f"resume  microgpt train --resume --out {out}" in said) == (step is not None)


def test_the_newest_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def read(path: Path, real: Any = checkpoint.read) -> checkpoint.Checkpoint:
        reads.append(path)
        return real(path)

    out = tmp_path / "run"
    train(small(tmp_path), out, stop_at=10)
    monkeypatch.setattr(checkpoint, "read", read)
    train(resumed(out, {}), out, resume=True)
    assert reads == [out / "checkpoints" / "step-00000010"]


def test_a_resumed_run_is_locked_before_it_is_read(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small(tmp_path), out, stop_at=10)

    class Impatient(Callbacks):
        def plan(self, setup: RunSetup) -> None:
            with pytest.raises(MachineError, match="another trainer is at work"):
                train(resumed(out, {}), out, resume=True)

    assert train(resumed(out, {}), out, resume=True, callbacks=Impatient()).step == 20


@pytest.mark.parametrize(("epochs", "steps"), [(1, 13), (0.1, 2), (3, 38)])
def test_epochs_are_passes_over_the_rows(tmp_path: Path, epochs: float, steps: int) -> None:
    """25 documents, two per step; steps in a later layer take the place of epochs, and the other way round."""
    config = small(tmp_path, epochs=epochs, batch_size=2)
    assert train(config, tmp_path / "run").step == steps
    written = RunFolder(tmp_path / "run").config().run
    assert (written.steps, written.epochs) == (steps, 0)
    assert config.replace(run={"steps": 7}).run.epochs == 0
    with pytest.raises(UsageError, match=f"--stop-at: must lie between 1 and --steps \\({steps}\\), got 40"):
        train(config, tmp_path / "short", stop_at=40)
    assert not (tmp_path / "short").exists()


def test_the_last_step_is_evaluated(tmp_path: Path) -> None:
    """Once, whether or not eval_every divides the steps; where a run was stopped is not its end."""
    out = tmp_path / "run"
    train(small(tmp_path, eval_every=8), out, stop_at=10)
    assert _evaluated(out) == [8]
    assert train(resumed(out, {}), out, resume=True).val_loss is not None
    train(resumed(out, {}), out, resume=True)  # there is nothing left to do
    assert _evaluated(out) == [8, 16, 20]
    train(small(tmp_path, eval_every=100), tmp_path / "short")
    assert _evaluated(tmp_path / "short") == [20]


def test_a_run_that_ended_before_its_last_step_was_evaluated_stays_so(tmp_path: Path) -> None:
    """Those of earlier versions: to resume one adds nothing, however often."""
    out = tmp_path / "run"
    train(small(tmp_path).replace(data={"val_fraction": 0.2}), out)
    train(resumed(out, {"run": {"eval_every": 8}}), out, resume=True)
    assert _evaluated(out) == []


def _evaluated(run: Path) -> list[int]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "val_loss" in line]
