"""Summaries of runs: states, figures, damage, and a thousand of them at once."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from microgpt.config import Config
from microgpt.runs import checkpoint, listing
from microgpt.runs.folder import RunFolder
from microgpt.training.train import train
from tests.chats import tiny


@pytest.fixture(scope="module")
def evaluated(talks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a held-out part that kept three checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "evaluated"
    run = {"steps": 60, "eval_every": 20, "checkpoint_every": 20, "keep": 3, "samples": 0}
    train(tiny(talks, run=run), out)
    return out


def test_a_summary_tells_what_the_checkpoint_and_the_metrics_say(evaluated: Path) -> None:
    found, saved = listing.summary(evaluated), checkpoint.read(evaluated, "last")
    lines = list(RunFolder(evaluated).metrics())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert (found.state, found.step, found.steps) == (listing.FINISHED, 60, 60)
    assert found.loss == pytest.approx(sum(losses[-50:]) / 50)
    assert (found.val_loss, found.bits_per_byte) == (saved.state["val_loss"], saved.state["bits_per_byte"])
    assert found.checkpoints == (20, 40, 60)
    assert found.best == checkpoint.best_step(saved.path)
    assert found.chat
    assert found.has_model
    assert found.data["source"] == saved.state["data"]["source"]
    assert found.tokens == saved.state["tokens"]
    assert found.parameters is not None


def test_states(evaluated: Path, names_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    with RunFolder(run).lock():
        assert listing.summary(run).state == listing.RUNNING
    shutil.rmtree(run / "checkpoints" / "step-00000060")
    assert listing.summary(run).state == listing.STOPPED
    shutil.rmtree(run / "checkpoints")
    bare = listing.summary(run)
    assert (bare.state, bare.has_model, bare.step) == (listing.STOPPED, False, 60)
    (run / "metrics.jsonl").unlink()
    assert listing.summary(run).step == 0
    (run / "run.toml").write_text("[model]\nn_embd = 'x'\n")
    damaged = listing.summary(run)
    assert damaged.state == listing.DAMAGED
    assert "run.toml" in (damaged.problem or "")
    alone = listing.summary(checkpoint.find(names_run))
    assert (alone.state, alone.checkpoints, alone.has_model) == (listing.FINISHED, (), True)


def test_a_damaged_state_is_told(evaluated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    state = run / "checkpoints" / "step-00000060" / "trainer" / "state.json"
    for text in ("[]", "{", '{"best": 3}', '{"loss": "x"}'):
        state.write_text(text)
        assert listing.summary(run).state == listing.DAMAGED, text


def test_lines_that_are_damaged_or_cut_short_are_left_out(evaluated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 61, "loss": 1.5, "seconds": "x", "tokens": []}\nnonsense\n{"step": 62, "lo')
    found = listing.summary(run)
    assert (found.step, found.seconds, found.tokens) == (61, None, 0)


def test_a_run_that_begins_while_a_folder_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_yet(folder: Path) -> dict[str, Path]:
        (folder / "new").mkdir()
        (folder / "new" / "run.toml").write_text(Config().to_toml())
        return {}

    monkeypatch.setattr(listing, "runs_in", none_yet)
    assert listing.is_folder_of_runs(tmp_path)


def test_the_folder_of_runs(evaluated: Path, names_run: Path, tmp_path: Path) -> None:
    assert listing.is_folder_of_runs(tmp_path)  # there is nothing in it yet
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".lock").touch()
    assert listing.is_folder_of_runs(tmp_path)
    (tmp_path / "begun" / "checkpoints").mkdir()
    assert listing.is_folder_of_runs(tmp_path)
    (tmp_path / "begun" / "checkpoints" / "step-00000001").mkdir()
    assert not listing.is_folder_of_runs(tmp_path)
    (tmp_path / "begun" / "checkpoints" / "step-00000001").rmdir()
    (tmp_path / "notes.txt").write_text("x")
    assert not listing.is_folder_of_runs(tmp_path)
    shutil.copytree(evaluated, tmp_path / "b")
    shutil.copytree(checkpoint.find(names_run), tmp_path / "a")  # a model folder
    shutil.copytree(evaluated, tmp_path / ".hidden")
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.toml").write_text(Config().to_toml())
    assert listing.is_folder_of_runs(tmp_path)
    assert not listing.is_folder_of_runs(tmp_path / "b")
    assert not listing.is_folder_of_runs(tmp_path / "nowhere")
    assert list(listing.runs_in(tmp_path)) == ["a", "b", "new"]
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    shutil.copy(tmp_path / "new" / "run.toml", os.fsencode(tmp_path) + b"/\xff/run.toml")
    assert list(listing.runs_in(tmp_path)) == ["a", "b", "new"]  # JSON has no such names


def test_what_has_changed_is_read_again(evaluated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    listed = listing.Listing()
    first = listed.summary(run)
    assert listed.summary(run) is first
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 61, "loss": 1.5}\n')
    assert listed.summary(run).step == 61
    assert list(listed.summaries({})) == []


def test_many_runs_are_listed_in_two_seconds(evaluated: Path, tmp_path: Path) -> None:
    """Two seconds of the processor's time are promised for 1,000; a quarter of them leaves room for slow machines."""
    for i in range(250):
        kept = tmp_path / f"run-{i:04d}" / "checkpoints" / "step-00000060"
        (kept / "trainer").mkdir(parents=True)
        for name in ("run.toml", "metrics.jsonl"):
            os.link(evaluated / name, kept.parent.parent / name)
        for name in ("MANIFEST.json", "trainer/state.json"):
            os.link(evaluated / "checkpoints" / kept.name / name, kept / name)
    began = time.process_time()
    found = listing.Listing().summaries(listing.runs_in(tmp_path))
    assert time.process_time() - began < 2
    assert len(found) == 250
    assert {(each.step, each.state) for each in found.values()} == {(60, listing.FINISHED)}


def test_numbers_beyond_every_float_are_no_numbers(evaluated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    huge = "9" * 400
    RunFolder(run).metrics_file.write_text(
        f'{{"step": 1, "loss": 2.5, "seconds": {huge}, "tokens": {huge}}}\n'
        f'{{"step": {huge}, "loss": 1}}\n{{"step": 2, "loss": {huge}}}\n'
    )
    found = listing.summary(run)
    assert (found.loss, found.seconds, found.tokens) == (2.5, None, 0)
    shutil.rmtree(run)
    assert listing._model_summary(run).state == listing.DAMAGED  # it vanished between two looks
