"""Sweeps: each trial is begun once and done once, whatever is killed, and ends as it would have undisturbed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from microgpt.cli import main
from microgpt.config import Config
from microgpt.errors import MachineError, MicrogptError, Stopped, UsageError
from microgpt.experiments import pool as pools
from microgpt.experiments.spec import SweepSpec
from microgpt.experiments.study import COMPLETE, Study
from microgpt.experiments.sweep import results, sweep
from microgpt.scenarios import scenario
from microgpt.training.train import train
from tests.crash.runs import end_state, spawn, wait, write_data

RATES: dict[str, Any] = {"set": {"optim.learning_rate": {"log": [0.1, 10.0]}}, "sampler": "random"}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "TRAIN", (sys.executable, "-S", str(Path(__file__).with_name("stand_in.py"))))


def run(out: Path, given: dict[str, Any], workers: int = 2, storage: str | None = None) -> list[dict[str, Any]]:
    said: list[str] = []
    spec = SweepSpec.of({"name": "test", **given}, "test")
    return results(*sweep(spec, scenario("names"), out, workers=workers, devices=[], storage=storage, say=said.append))


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["number"] for row in rows)


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.usefixtures("stand_in")
def test_a_sweep_that_is_killed_again_and_again_does_each_trial_once(tmp_path: Path) -> None:
    """Killed while trials work (orphans go on), and with half an entry at the journal's end."""
    axes = {**RATES["set"], "model.n_embd": [8, 16]}  # a file has another order of them
    given = {**RATES, "set": axes, "trials": 8, "fixed": {"data.text_field": "x"}}
    undisturbed = run(tmp_path / "whole", given)
    out = tmp_path / "killed"
    words = ["sweep", str(tmp_path / "test.toml"), "--out", str(out), "--workers", "2"]
    (tmp_path / "test.toml").write_text(
        'name = "test"\nsampler = "random"\ntrials = 8\n[fixed]\ndata.text_field = "x"\n'
        "[set]\noptim.learning_rate = {log = [0.1, 10.0]}\nmodel.n_embd = [8, 16]\n"
    )
    for begun in (1, 4, 6):
        pid = spawn(words, tmp_path / "log")
        until(lambda: (out / "trials" / f"{begun:04d}.log").exists())  # noqa: B023
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
        with open(out / "study.journal", "ab") as journal:
            journal.write(b'{"op_code": 4, "worker')
    found = run(out, given)
    assert numbers(found) == list(range(8))
    assert {row["state"] for row in found} == {"done"}
    assert [(row["number"], row["params"], row["value"]) for row in found] == [
        (row["number"], row["params"], row["value"]) for row in undisturbed
    ]
    for number in range(8):
        begun_lines = (out / "trials" / f"{number:04d}" / "begun").read_text().splitlines()
        assert begun_lines[0] == "begun"
        assert begun_lines.count("begun") == 1
    assert run(out, given) == found  # nothing is left to do


@pytest.mark.usefixtures("stand_in")
def test_two_sweeps_on_one_study_share_its_trials(tmp_path: Path) -> None:
    journal, machines = tmp_path / "shared.journal", [tmp_path / name for name in ("one", "two")]
    given = {**RATES, "sampler": "tpe", "trials": 10}

    def work(out: Path) -> None:
        run(out, given, workers=1, storage=str(journal))
        os._exit(0)

    pids = [spawn([], tmp_path / f"{out.name}.log", partial(work, out)) for out in machines]
    assert [wait(pid) for pid in pids] == [0, 0]
    held = [{path.stem for path in (out / "trials").glob("*.toml")} for out in machines]
    assert not held[0] & held[1]
    assert sorted(held[0] | held[1]) == [f"{number:04d}" for number in range(10)]
    counted = Study(SweepSpec.of({**given, "name": "test"}, "x"), journal, "nobody", "here").begun()
    assert [trial.state for trial in counted] == [COMPLETE] * 10
    assert len({trial.params["optim.learning_rate"] for trial in counted}) == 10


def test_a_trial_belongs_to_the_sweep_that_added_it(tmp_path: Path) -> None:
    spec = SweepSpec.of({**RATES, "trials": 2}, "x")
    one, two = (Study(spec, tmp_path / "journal", name, name) for name in ("one", "two"))
    assert one.add()
    assert (one.mine(), two.mine()) == ([0], [])
    assert two.add()
    assert not one.add()
    one.spec = spec.model_copy(update={"trials": 3})  # as if both had looked at once
    assert one.add()
    one.spec = spec
    assert one.mine() == [0]
    assert [trial.number for trial in one.begun()] == [0, 1]
    assert one.trials()[2].user_attrs["problem"] == "one too many"
    values = {number: two.params(number) for number in (1, 0)}
    assert values == {number: one.params(number) for number in (0, 1)}
    assert len({str(each) for each in values.values()}) == 2


@pytest.mark.usefixtures("stand_in")
def test_trials_end_as_they_should(tmp_path: Path) -> None:
    def states(told: str) -> Counter[str]:
        return Counter(row["state"] for row in run(tmp_path / told, {**given, "fixed": {"data.text_field": told}}))

    given: dict[str, Any] = {**RATES, "trials": 4}
    assert states("killed once") == {"done": 4}
    assert states("diverges") == {"failed": 4}
    killed = run(tmp_path / "k", {**given, "trials": 1, "fixed": {"data.text_field": "killed"}})
    assert killed[0]["problem"] == "ended by signal 3 times"
    assert (tmp_path / "k/trials/0000/begun").read_text().split() == ["begun", "resumed", "resumed"]
    with pytest.raises(UsageError, match=r"the first 3 trials failed alike: optim\.eps") as error:
        states("usage")
    assert error.value.status == 2
    full = {**given, "fixed": {"data.text_field": "full"}}
    with pytest.raises(MachineError, match=r"trial 0: .*No space left"):
        run(tmp_path / "full", full, workers=1)
    path = tmp_path / "full" / "trials" / "0000" / "run.toml"
    path.write_text(path.read_text().replace('"full"', '"x"'))
    with pytest.raises(MachineError, match=r"trial 1: .*No space left"):  # the first one was resumed, and is done
        run(tmp_path / "full", full, workers=1)
    assert path.with_name("begun").read_text().split() == ["begun", "resumed"]


@pytest.mark.usefixtures("stand_in")
def test_worse_trials_are_pruned(tmp_path: Path) -> None:
    rates = [0.1, 0.2, 0.3, 0.4, 5.0, 0.5]
    given = {"prune": True, "set": {"optim.learning_rate": rates}, "fixed": {"data.text_field": "worst waits"}}
    rows = run(tmp_path / "s", given, workers=1)
    assert {row["number"]: row["state"] for row in rows}[4] == "pruned"
    assert Counter(row["state"] for row in rows)["pruned"] <= 2
    assert rows[0]["params"]["optim.learning_rate"] == 0.1


@pytest.mark.usefixtures("stand_in")
def test_a_stop_lets_the_trials_save_and_a_second_sweep_is_refused(tmp_path: Path) -> None:
    given = {**RATES, "trials": 3, "fixed": {"data.text_field": "waits"}}
    out = tmp_path / "s"

    def stop(line: str) -> None:
        if line.startswith("trial 1 started"):
            for number in (0, 1):
                until((out / "trials" / f"000{number}" / "metrics.jsonl").exists)
            with pytest.raises(MachineError, match="another sweep is at work"):
                run(out, given)
            os.kill(os.getpid(), signal.SIGINT)

    spec = SweepSpec.of({"name": "test", **given}, "test")
    with pytest.raises(Stopped) as error:
        sweep(spec, scenario("names"), out, workers=2, devices=[], storage=None, say=stop)
    assert error.value.status == 130
    for number in (0, 1):
        path = out / "trials" / f"000{number}" / "run.toml"
        path.write_text(path.read_text().replace("waits", "x"))
    (out / "trials" / "0002.toml").write_text((out / "trials" / "0001.toml").read_text().replace("waits", "x"))
    assert Counter(row["state"] for row in run(out, given)) == {"done": 3}
    with pytest.raises(UsageError, match="holds another sweep"):
        run(out, {**given, "seed": 2})


def test_real_trials_are_bit_identical_to_undisturbed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The short form of `make proof-sweep`: two trials, the sweep and then a trial of it killed."""
    monkeypatch.chdir(tmp_path)
    data, out = write_data(tmp_path), tmp_path / "s"
    keys = "run.steps=40 run.engine=manual run.dtype=float64 run.checkpoint_every=5 run.samples=0 model.n_embd=4,8"
    words = ["sweep", "names", "--data", str(data), "--out", str(out), "--json", "--set", *keys.split()]
    pid = spawn(words, tmp_path / "log")
    until((out / "trials" / "0000" / "run.toml").exists)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    capsys.readouterr()
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert numbers(found["trials"]) == [0, 1]
    assert found["best"] == found["trials"][0]
    assert [Path(name).name for name in found["pictures"]][-1] == "sweep.html"
    page = (out / "sweep.html").read_text()
    assert page.count("<svg") == len(found["pictures"]) - 1 == 3
    assert "src=" not in page
    for row in found["trials"]:
        train(Config.from_toml(Path(f"{row['path']}.toml")), tmp_path / "undisturbed" / str(row["number"]))
        assert end_state(Path(row["path"])) == end_state(tmp_path / "undisturbed" / str(row["number"]))
        assert row["value"] == end_state(Path(row["path"]))["state"]["best"]["val_loss"]


@pytest.mark.parametrize(
    ("storage", "problem"),
    [("\udcff", "must be text"), ("/", "is a folder"), (".", "is a folder"), ("poem.txt", "no journal")],
)
def test_a_storage_that_is_none_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("poem.txt").write_text("a line\nand one without an end")
    with pytest.raises(MicrogptError, match=problem):
        run(tmp_path / "out", {**RATES, "trials": 1}, storage=storage)
    assert Path("poem.txt").read_text() == "a line\nand one without an end"
