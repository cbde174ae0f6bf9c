"""Resumed and extended runs: to another total, beyond the end, and the changes that are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Config
from microgpt.errors import CheckpointError, UsageError
from microgpt.runs import checkpoint
from microgpt.runs.manifest import MANIFEST
from microgpt.training.resume import resumed
from microgpt.training.train import train
from tests.training.runs import small

RATE = {"learning_rate": 0.004}


def rates(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["lr"] for line in lines if "lr" in line]


def go_on(out: Path, extend: int | None = None, stop_at: int | None = None, **flags: Any) -> None:
    train(resumed(out, flags, extend), out, resume=True, stop_at=stop_at)


def test_steps_is_a_new_total(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small(tmp_path), out, stop_at=10)
    go_on(out, run={"steps": 30})
    assert checkpoint.read(out).step == 30
    assert rates(out)[10] == pytest.approx(0.01 * 20 / 30)
    with pytest.raises(UsageError, match="at step 30 already"):
        resumed(out, {"run": {"steps": 29}})


def test_extended_the_rate_stays_where_it_is(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = small(tmp_path).replace(optim={"min_learning_rate": 0.001})
    train(config, out)
    go_on(out, extend=5)
    go_on(out, extend=5)
    assert checkpoint.read(out).step == 30
    assert rates(out)[19:] == pytest.approx([0.001 + 0.009 / 20] * 11)
    go_on(out, extend=4, optim={"learning_rate": 0.02, "schedule": "linear"})
    assert rates(out)[30:] == pytest.approx([0.02, 0.015, 0.01, 0.005])
    assert Config.from_toml(out / "run.toml").run.steps == 34


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_that_has_ended_asks_for_a_rate(tmp_path: Path, schedule: str) -> None:
    out = tmp_path / "run"
    train(small(tmp_path).replace(optim={"schedule": schedule}), out)
    for flags in ({}, {"optim": {"schedule": "cosine"}}):
        with pytest.raises(UsageError, match=rf"the {schedule} schedule ended .* name the rate .* --learning-rate"):
            resumed(out, flags, 10)
    go_on(out, extend=5, optim=RATE)
    go_on(out, extend=5)
    assert rates(out)[20:] == [0.004] * 10


def test_an_extension_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    for name, stop in (("whole", None), ("parts", 25)):
        out = tmp_path / name
        train(small(tmp_path), out)
        go_on(out, extend=10, stop_at=stop, optim=RATE)
    go_on(out)
    whole, parts = (checkpoint.read(tmp_path / name).tensors() for name in ("whole", "parts"))
    assert checkpoint.read(out).step == 30
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


WAYS: dict[str, list[dict[str, Any]]] = {
    "another total": [{"run": {"steps": 30}}],
    "another total, twice": [{"run": {"steps": 24}, "stop_at": 22}, {"run": {"steps": 30}}],
    "extended": [{"extend": 10, "optim": RATE}],
    "extended by a schedule": [
        {"extend": 5, "optim": {**RATE, "schedule": "linear", "warmup_steps": 2}},
        {"extend": 5, "optim": RATE},
    ],
    "a total, then extended": [{"run": {"steps": 25}}, {"extend": 2, "optim": RATE}, {"run": {"steps": 30}}],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stop", [12, 20])
def test_run_toml_trains_the_whole_run_anew(tmp_path: Path, way: str, stop: int) -> None:
    out, anew = tmp_path / "run", tmp_path / "anew"
    train(small(tmp_path), out, stop_at=stop)
    if "extend" in WAYS[way][0]:
        go_on(out)
    for flags in WAYS[way]:
        go_on(out, **flags)
    train(Config.from_toml(out / "run.toml"), anew)
    then, now = checkpoint.read(out), checkpoint.read(anew)
    assert then.step == now.step == 30
    assert rates(out) == rates(anew)
    assert all(np.array_equal(value, now.tensors()[name]) for name, value in then.tensors().items())
    shutil.rmtree(out / "checkpoints")
    go_on(out)
    assert rates(out) == rates(anew), "without a checkpoint a run begins anew"


def test_the_old_keys_of_phases_are_read(tmp_path: Path) -> None:
    """run.toml and config.json called phases `earlier`, and `end_step` `until`."""
    runs = {}
    for name in ("old", "new"):
        out = tmp_path / name
        train(small(tmp_path), out)
        go_on(out, extend=10, stop_at=25, optim=RATE)
        if name == "old":
            rename(out / "run.toml", ("[[phases]]", "[[earlier]]"), ("[phases.optim]", "[earlier.optim]"))
            rename(out / "run.toml", ("end_step = ", "until = "))
            newest = checkpoint.list_steps(out / "checkpoints")[-1]
            rename(newest / "config.json", ('"phases":', '"earlier":'), ('"end_step":', '"until":'))
            manifest = json.loads((newest / MANIFEST).read_text())
            data = (newest / "config.json").read_bytes()
            manifest["files"]["config.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            (newest / MANIFEST).write_text(json.dumps(manifest))
            assert [phase.end_step for phase in checkpoint.read(newest).config.phases] == [20]
        go_on(out)
        runs[name] = checkpoint.read(out)
    assert runs["old"].step == 30
    assert runs["old"].config == runs["new"].config
    assert rates(tmp_path / "old") == rates(tmp_path / "new")
    new = runs["new"].tensors()
    assert all(np.array_equal(value, new[name]) for name, value in runs["old"].tensors().items())


def rename(path: Path, *keys: tuple[str, str]) -> None:
    """Replace texts of a file, each of which must be there."""
    text = path.read_text(encoding="utf-8")
    for key, old in keys:
        assert key in text
        text = text.replace(key, old)
    path.write_text(text, encoding="utf-8")


def test_an_extended_run_without_its_past_begins_at_its_rate(tmp_path: Path) -> None:
    """As a run.toml from before the past was noted."""
    config = Config.from_dict({**small(tmp_path, steps=8).to_dict(), "schedule_from": 20})
    train(config, tmp_path / "run")
    assert rates(tmp_path / "run") == [0.01] * 8


def test_another_schedule_is_one_of_the_whole_run(tmp_path: Path) -> None:
    out, anew = tmp_path / "run", tmp_path / "anew"
    train(small(tmp_path), out)
    go_on(out, extend=10, optim=RATE)
    assert main(["train", "--config", str(out / "run.toml"), "--out", str(anew), "--learning-rate", "0.02"]) == 0
    assert rates(anew) == [0.02] * 30


def test_only_a_finished_run_is_extended(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small(tmp_path), out, stop_at=10)
    with pytest.raises(UsageError, match="at step 10 of 20"):
        resumed(out, {}, 5)
    with pytest.raises(UsageError, match="without --steps"):
        resumed(out, {"run": {"steps": 40}}, 5)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "n_embd", 32),
        ("data", "tokenizer", "word"),
        ("data", "trailing_bos", False),
        ("optim", "learning_rate", 0.5),
        ("run", "seed", 7),
        ("run", "batch_size", 2),
    ],
)
def test_what_the_checkpoint_fixes_is_not_contradicted(tmp_path: Path, section: str, key: str, value: Any) -> None:
    out = tmp_path / "run"
    train(small(tmp_path), out, stop_at=10)
    with pytest.raises(CheckpointError, match=rf"{section}.{key} is not what .* then, {value!r} now"):
        resumed(out, {section: {key: value}})
    same = getattr(getattr(Config.from_toml(out / "run.toml"), section), key)
    assert getattr(getattr(resumed(out, {section: {key: same}}), section), key) == same


@pytest.mark.parametrize("text", ["emma\nolivia\nava\nmia\nem\n" * 5, "zoé\n"])
def test_other_data_is_refused_by_name(tmp_path: Path, text: str) -> None:
    out = tmp_path / "run"
    train(small(tmp_path), out, stop_at=10)
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="data") as error:
        go_on(out)
    assert error.value.code == "E_OTHER_RUN"


@pytest.mark.parametrize("source", ["other.txt", "names", "chat"])
@pytest.mark.parametrize("how", [["--resume"], ["--extend", "5", "--lr", "0.01"]], ids=" ".join)
def test_another_source_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, how: list[str]
) -> None:
    out, source = tmp_path / "run", source.replace("other", str(tmp_path / "other"))
    (tmp_path / "other.txt").write_text("emma\nolivia\nava\nmia\nem\n" * 5, encoding="utf-8")
    train(small(tmp_path), out)
    before = (out / "run.toml").read_bytes()
    assert main(["train", source, *how, "--out", str(out)]) == 4
    said = capsys.readouterr().err
    assert "is not what this checkpoint was trained with" in said.splitlines()[-1]
    assert "resume  " not in said
    assert before == (out / "run.toml").read_bytes()
    assert main(["train", str(tmp_path / "names.txt"), *how, "--out", str(out)]) == 0
