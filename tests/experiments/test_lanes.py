"""Runs whose models are trained as one: each has the folder, the steps and the numbers of its own run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.engines import ladder
from microgpt.errors import Stopped
from microgpt.experiments.batch import Batch
from microgpt.experiments.lanes import LaneBatch
from microgpt.runs import checkpoint
from microgpt.training.trainer import Trainer
from tests.crash.runs import metrics, new, write_data
from tests.experiments.test_threads import diverge_in_seed_6

pytest.importorskip("torch")
from microgpt.engines.pytorch.lanes import Lanes

SEEDS = (5, 6, 7)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trains three seeds as if this machine had a GPU."""
    monkeypatch.setattr(ladder, "lanes", lambda name, device: Lanes)
    words = new(write_data(tmp_path), tmp_path / "all", engine="pytorch", device="cpu", dropout=0.1)
    return [*words, "--seed", "5", "--seeds", "3", "--no-tune", "--no-deterministic"]


def require_own_runs(folder: Path, command: list[str]) -> None:
    """Each run has the metrics and tensors of a run by itself."""
    for seed in SEEDS:
        alone = folder / f"alone{seed}"
        words = [word.replace(str(folder / "all"), str(alone)) for word in command[: command.index("--seed")]]
        assert main([*words, "--seed", str(seed)]) == 0
        found, expected = metrics(folder / "all" / f"seed{seed}"), metrics(alone)
        assert [line.keys() for line in found] == [line.keys() for line in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-11)
        saved = [checkpoint.read(place, "last").tensors() for place in (folder / "all" / f"seed{seed}", alone)]
        for name, value in saved[1].items():
            np.testing.assert_allclose(saved[0][name], value, rtol=1e-11, atol=1e-14, err_msg=name)


def test_runs_side_by_side_are_their_own_runs(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With evaluations, samples and checkpoints on the way, and nothing left to do in the end."""
    assert main(command) == 0
    said = capsys.readouterr()
    assert all(f"seed{seed}: done" in said.err for seed in SEEDS)
    assert "spread" in said.out
    require_own_runs(tmp_path, command)
    capsys.readouterr()
    assert main(command) == 0
    assert "started" not in capsys.readouterr().err


def test_bits_that_are_to_be_equal_are_computed_by_a_process_per_run(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless --no-deterministic says that they need not be."""
    begun: list[type] = []

    def run(self: Batch) -> None:
        begun.append(type(self))
        raise Stopped("before the first run", signal.SIGTERM)

    monkeypatch.setattr(Batch, "run", run)
    assert [main(words) for words in (command, command[:-1])] == [143, 143]
    assert begun == [LaneBatch, Batch]


def test_a_signal_saves_every_run_and_the_same_command_goes_on(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Trainer.evaluate

    def stop(self: Trainer) -> None:
        evaluate(self)
        if self.step == 20 and self.setup.config.run.seed == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", stop)
        assert main(command) == 143
    steps = [checkpoint.read(tmp_path / "all" / f"seed{seed}", "last").state["step"] for seed in SEEDS]
    assert all(20 <= step < 40 for step in steps)
    assert main(command) == 0
    require_own_runs(tmp_path, command)


def test_a_run_that_fails_is_told_by_its_name_and_the_others_end(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diverge_in_seed_6(monkeypatch)
    assert main(command) == 6
    said = capsys.readouterr().err
    assert "seed6: failed: step 21" in said
    assert "microgpt: seed6: step 21" in said
    assert "seed5: done" in said
    assert "seed7: done" in said
