"""Runs side by side: each is bit-equal to its own run, begun once, and told by its name where it fails."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.config import Config
from microgpt.errors import MicrogptError, Stopped
from microgpt.experiments import batch as batches
from microgpt.experiments import pool as pools
from microgpt.experiments.batch import Batch, threads_of
from microgpt.experiments.threads import fits
from microgpt.runs.listing import RunSummary
from tests.crash.runs import end_state, new, write_data


def settle_and_stop(work: Batch) -> None:
    work.settle()
    raise Stopped("before the first run", signal.SIGTERM)


@pytest.mark.parametrize("engine", ["manual", "fused"])  # processes, and threads
def test_seeds_are_bit_equal_to_their_own_runs_also_when_resumed(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one was stopped halfway, as a signal to the command leaves it."""
    data, out = write_data(tmp_path), tmp_path / "both"
    both = [*new(data, out, engine=engine, dropout=0.1), "--seed", "5", "--seeds", "2", "--json"]
    assert fits(Config.from_dict({"run": {"engine": engine}}, "test")) == (engine == "fused")
    for seed in (5, 6):
        assert main([*new(data, tmp_path / f"{seed}", engine=engine, dropout=0.1), "--seed", str(seed)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "run", settle_and_stop)
        assert main(both) == 143
    assert main(["train", "--config", str(out / "seed5.toml"), "--out", str(out / "seed5"), "--stop-at", "15"]) == 0
    capsys.readouterr()
    assert main(both) == 0
    told = json.loads(capsys.readouterr().out)
    for seed in (5, 6):
        assert end_state(out / f"seed{seed}") == end_state(tmp_path / f"{seed}")
    losses = [run["val_loss"] for run in told["runs"]]
    assert told["mean"]["val_loss"] == pytest.approx(sum(losses) / 2)
    assert told["spread"]["val_loss"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)
    assert main(both) == 0  # nothing is left to do
    assert "started" not in capsys.readouterr().err
    assert main([*both, "--lr", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


def batch(out: Path, monkeypatch: pytest.MonkeyPatch, show: batches.Show = print, **told: str) -> tuple[Batch, Any]:
    """Runs by their names, each of which the stand-in for training lets end as it is told."""
    monkeypatch.setattr(pools, "TRAIN", (sys.executable, "-S", str(Path(__file__).with_name("stand_in.py"))))
    monkeypatch.setattr(batches, "SHOW", 0.0)
    said: list[str] = []
    configs = {
        name: Config.from_dict({"data": {"text_field": how}, "run": {"threads": 1}}, "test")
        for name, how in told.items()
    }
    return Batch(out, configs, said.append, show), said


def test_a_run_that_fails_is_told_by_its_name_and_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, said = batch(tmp_path, monkeypatch, one="x", two="diverges", three="x")
    with pytest.raises(MicrogptError, match=r"^two: step 3: the loss is not finite$") as caught:
        work.run()
    assert caught.value.status == 6
    assert {line for line in said if "done" in line} >= {"three: done"}
    assert sum("done" in line for line in said) == 2


def test_a_signal_lets_every_run_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(runs: list[RunSummary]) -> None:
        if sum((run.path / "metrics.jsonl").exists() for run in runs) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            work.show = lambda runs: None  # a second signal would kill

    for line in ("one: started", "one: resumed"):
        work, said = batch(tmp_path, monkeypatch, stop, one="waits")
        with pytest.raises(Stopped):
            work.run()
        assert said == [line]
        assert not work.pool.is_at_work(0)


def test_threads_of_recorded_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    large: dict[str, Any] = {"model": {"vocab_size": 99, "n_embd": 64, "n_layer": 4}, "run": {"device": "cpu"}}
    on_gpu: dict[str, Any] = {**large, "run": {"device": "cuda"}}
    monkeypatch.setattr(batches, "cores", lambda: [0, 1, 2])
    assert threads_of(Config.from_dict(on_gpu, "test")) == 1
    assert (
        threads_of(Config.from_dict({**on_gpu, "model": {"vocab_size": 99, "n_embd": 256, "n_layer": 4}}, "test")) == 3
    )
    plan = {"plan": {"threads": 3, "threaded": 100_000}}
    assert threads_of(Config.from_dict(large | plan, "test")) == 3
    assert threads_of(Config.from_dict({**large, **plan, "model": {"vocab_size": 27}}, "test")) == 1
    assert threads_of(Config.from_dict({**large, "run": {"threads": 77}}, "test")) == 77
