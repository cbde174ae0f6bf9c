"""Runs in threads of one process: each is its own run, whatever ends the command, and as many train as there are cores.

That they end with the same bits is in test_batch.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.config import Config
from microgpt.errors import MicrogptError
from microgpt.experiments import threads
from microgpt.experiments.batch import NamedRuns
from microgpt.experiments.threads import fits
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder
from microgpt.training.trainer import Trainer
from tests.crash.runs import end_state, new, write_data

SEEDS = (5, 6, 7, 8)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Trains four seeds in threads."""
    return [*new(write_data(tmp_path), tmp_path / "all", engine="fused"), "--seed", "5", "--seeds", "4"]


def require_own_runs(folder: Path, command: list[str]) -> None:
    """Each run ended as a run by itself does."""
    for seed in SEEDS:
        alone = folder / f"alone{seed}"
        words = [word.replace(str(folder / "all"), str(alone)) for word in command[: command.index("--seed")]]
        assert main([*words, "--seed", str(seed)]) == 0
        assert end_state(folder / "all" / f"seed{seed}") == end_state(alone)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, True),
        ({"engine": "fused", "dtype": "float64"}, True),
        ({"engine": "tensor"}, False),  # holds Python's lock
        ({"engine": "pytorch", "device": "cuda"}, False),
        ({"engine": "no such"}, False),
        ({"threads": 2}, False),
        ({"steps": 10_000_000}, False),  # the lock would cost more than the start of a process
    ],
)
def test_small_models_of_an_engine_that_computes_outside_the_lock(keys: dict[str, Any], expected: bool) -> None:
    assert fits(Config.from_dict({"run": keys}, "test")) is expected


def test_a_large_model_takes_all_cores_alone_unless_it_is_held_to_one() -> None:
    large = {"model": {"vocab_size": 99, "n_embd": 64, "n_layer": 4, "block_size": 64}}
    assert not fits(Config.from_dict({**large, "run": {"engine": "fused", "steps": 10}}, "test"))
    assert fits(Config.from_dict({**large, "run": {"engine": "fused", "steps": 10, "threads": 1}}, "test"))


def test_a_signal_saves_every_run_and_the_same_command_goes_on(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one core fewer than runs: the last has not begun when the signal comes, the third perhaps."""
    evaluate = Trainer.evaluate
    monkeypatch.setattr(threads, "cores", lambda: [0, 1, 2])

    def stop(self: Trainer) -> None:
        evaluate(self)
        if self.step == 20 and self.setup.config.run.seed == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # until the main thread has it

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", stop)
        patch.setattr(Trainer, "train_block", slowly(Trainer.train_block))
        assert main(command) == 143
    begun = [seed for seed in SEEDS if RunFolder(tmp_path / "all" / f"seed{seed}").config_file.exists()]
    assert {5, 6} <= set(begun) <= {5, 6, 7}
    assert checkpoint.read(tmp_path / "all" / "seed6", "last").state["step"] == 20
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "seed6: resumed" in said
    assert "seed8: started" in said
    require_own_runs(tmp_path, command)


def diverge_in_seed_6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run of seed 6 diverge behind step 20."""
    block = Trainer.train_block

    def fail(self: Any, target: int) -> None:
        if self.step >= 20 and self.setup.config.run.seed == 6:
            self._diverged(float("nan"))
        block(self, target)

    monkeypatch.setattr(Trainer, "train_block", fail)


def slowly(block: Any) -> Any:
    """Training that takes a while, so that the other runs are still at it when one of them is told to end."""

    def train_block(self: Trainer, target: int) -> None:
        if self.setup.config.run.seed != 6:
            time.sleep(0.05)
        block(self, target)

    return train_block


def test_a_killed_command_loses_nothing_and_leaves_nobody_behind(tmp_path: Path, command: list[str]) -> None:
    command[command.index("--steps") + 1] = "20000"  # short by its steps; saving every five of them takes longer
    process = subprocess.Popen([sys.executable, "-m", "microgpt", *command], stderr=-3, stdout=-3)
    try:
        last = tmp_path / "all" / "seed5" / "checkpoints"
        while not (last.exists() and len(list(last.iterdir())) > 1):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not RunFolder(tmp_path / "all" / "seed5").is_running()
    step = checkpoint.read(tmp_path / "all" / "seed5", "last").state["step"]
    words = ["train", "names", "--resume", "--out", str(tmp_path / "all" / "seed5"), "--stop-at", str(step + 5)]
    assert main(words) == 0


def test_a_run_that_fails_is_told_by_its_name_and_the_others_end(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diverge_in_seed_6(monkeypatch)
    assert main(command) == 6
    said = capsys.readouterr().err
    assert "microgpt: seed6: step 21" in said
    assert sum(f"seed{seed}: done" in said for seed in SEEDS) == 3


def test_where_the_first_cannot_begin_the_others_are_not_tried(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("")
    command[command.index("--data") + 1] = str(tmp_path / "empty.txt")
    assert main(command) == 3
    said = capsys.readouterr().err
    assert said.count("failed") == 1
    assert said.count("started") == 1


def test_a_run_at_work_elsewhere_is_awaited(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody trains seed5 by itself, and comes to its end while the command waits."""
    out, asked = tmp_path / "all" / "seed5", list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threads.ThreadBatch, "train_all", lambda self, waiting, stop: None)
        with suppress(MicrogptError):
            main(command)  # writes the configurations alone
    assert main(["train", "--config", str(out.with_suffix(".toml")), "--out", str(out), "--stop-at", "15"]) == 0

    def is_at_work(self: NamedRuns, number: int) -> bool:
        asked.append(number)
        if number == 0 and asked.count(0) == 3:
            assert main(["train", "--resume", "--out", str(out)]) == 0
        return number == 0 and asked.count(0) < 3

    monkeypatch.setattr(NamedRuns, "is_at_work", is_at_work)
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "seed5: still at work" in said
    assert "seed5: resumed" not in said
    require_own_runs(tmp_path, command)
