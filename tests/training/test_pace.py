"""Runs that end with their time: the schedule ends with it, and what a run did can be repeated without a clock."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.commands.progress import TrainingProgress
from microgpt.config import Config
from microgpt.optim import rate_of_run
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder
from microgpt.training import pace as pacing
from microgpt.training.pace import Pace
from microgpt.training.resume import resumed
from microgpt.training.train import train
from tests.training.runs import small

LONG = 10_000_000  # steps, more than any time here allows


def weights(out: Path) -> bytes:
    return (checkpoint.list_steps(out / "checkpoints")[-1] / "model.safetensors").read_bytes()


def rates(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["lr"] for line in lines if "lr" in line]


class Clock:
    """A clock by which every question takes 30 ms, so that a busy machine cannot make a run too short for its test."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.03
        return self.now

    perf_counter = staticmethod(time.perf_counter)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six seconds in two parts."""
    folder, clock = tmp_path_factory.mktemp("timed"), Clock()
    config = small(folder, steps=LONG, engine="tensor", eval_every=100).replace(optim={"schedule": "cosine"})
    out = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        for module in ("train", "trainer", "pace"):
            patch.setattr(f"microgpt.training.{module}.time", clock)
        train(config, out, stop_at=20, max_time=6.0)
        assert checkpoint.read(out).step == 20
        result = train(resumed(out, {}), out, resume=True)
    assert result.finished
    assert 20 < result.step < LONG
    return out


def test_the_schedule_ends_with_the_time(timed: Path) -> None:
    config = RunFolder(timed).config()
    assert config.run.steps == checkpoint.read(timed).step == len(rates(timed))
    assert 0.9 < config.pace[-1][1] <= 1
    assert rates(timed)[-1] < 0.1 * max(rates(timed))
    assert rates(timed) == sorted(rates(timed), reverse=True)


def test_its_file_repeats_it_without_a_clock(timed: Path, tmp_path: Path) -> None:
    config = Config.from_toml(timed / "run.toml")
    train(config, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(timed)
    assert rates(tmp_path / "again") == rates(timed)


def test_it_can_be_extended(timed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, steps = RunFolder(timed).config(), checkpoint.read(timed).step
    longer = resumed(timed, {"optim": {"learning_rate": 0.001}}, extend=5)
    assert (longer.run.steps, longer.pace, longer.max_seconds) == (steps + 5, (), 0)
    assert [rate_of_run(longer, step) for step in range(steps)] == [rate_of_run(config, step) for step in range(steps)]
    assert rate_of_run(longer, steps) == 0.001


def test_time_enough_changes_nothing(tmp_path: Path) -> None:
    config = small(tmp_path, steps=30)
    train(config, tmp_path / "free")
    result = train(config, tmp_path / "limited", max_time=600.0)
    assert (result.finished, result.step) == (True, 30)
    assert weights(tmp_path / "limited") == weights(tmp_path / "free")


def test_the_command_says_how_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(tmp_path)
    out = tmp_path / "run"
    began = time.monotonic()
    words = ["--steps", str(LONG), "--max-time", "2s", "--engine", "scalar", "--samples", "1"]
    assert main(["train", str(tmp_path / "names.txt"), "--out", str(out), *words]) == 0
    assert time.monotonic() - began < 60
    said = capsys.readouterr().err
    assert "steps   as many as the time allows, some " in said
    assert f"try     microgpt generate {out}" in said


@pytest.mark.parametrize("slower", [1.0, 2.0, 0.3])
def test_a_machine_that_changes_its_speed(monkeypatch: pytest.MonkeyPatch, slower: float) -> None:
    """The progress is 1 when the time ends, within a hundredth, whatever the steps cost meanwhile."""
    now = 0.0
    monkeypatch.setattr(pacing.time, "monotonic", lambda: now)
    pace, step, cost = Pace(0, LONG), 0, 0.01
    pace.start(0, 100.0)
    while not pace.is_done(step) and now < 110:
        end = min(step + 10, pace.next_knot(step, cost))
        cost = 0.01 if now < 50 else 0.01 * slower
        now += (end - step) * cost
        step = end
        assert abs(pace.progress(step) - now / 100) < 0.02
    assert 99 < now <= 100.6
    progress = [pace.progress(at) for at in range(step + 1)]
    assert progress == sorted(progress)
    assert progress[-1] == 1


def test_the_time_left_is_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 0.1 s with an evaluation of 3 s every hundred: within a fifth from a tenth of the run on."""
    now = 0.0
    monkeypatch.setattr("microgpt.commands.progress.time.monotonic", lambda: now)
    progress = TrainingProgress(Path("run"))
    progress.steps = 5000
    told: list[tuple[float, str]] = []
    for step in range(1, progress.steps + 1):
        now += 0.1 + 3 * (step % 100 == 0)
        progress.progress(step, 1.0, 16)
        if said := capsys.readouterr().err:
            told.append((now, said))
    for then, line in told:
        if now / 10 < then < 0.98 * now and (found := re.search(r"  ([\d.]+) (s|min) left", line)):
            left = float(found[1]) * (60 if found[2] == "min" else 1)
            assert left == pytest.approx(now - then, rel=0.2)
    assert len(told) > 50


def test_a_run_that_goes_on_within_a_segment_keeps_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(pacing.time, "monotonic", lambda: now)
    pace, step = Pace(0, LONG), 0
    pace.start(0, 100.0)
    while now < 37.3:
        step, now = step + 7, now + 0.7
        pace.next_knot(step, 0.1)
    assert pace.knots[-1][0] > step
    before = [pace.progress(at) for at in range(step + 1)]
    again = Pace(0, LONG, pace.knots)
    again.start(step, 150.0)
    assert again.next_knot(step, 0.1) == pace.knots[-1][0]
    while not again.is_done(step):
        end = again.next_knot(step, 0.1)
        step, now = end, now + (end - step) * 0.1
    assert [again.progress(at) for at in range(len(before))] == before
    assert 149 < now <= 150.6
