"""--log: the metrics of a run reach TensorBoard's files and Trackio, each step once, also over a stop."""

from __future__ import annotations

import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from tests.crash.runs import new, write_data

TRAIN = {"checkpoint_every": 0, "sample_every": 0, "samples": 0}


def train(tmp_path: Path, kind: str) -> tuple[list[dict[str, Any]], Path]:
    """A run of 40 steps that stops at 20 and goes on; its metrics and its folder."""
    out = tmp_path / "run"
    words = new(write_data(tmp_path), out, **TRAIN, log=kind)
    assert main([*words, "--stop-at", "20"]) == 0
    assert main(["train", "--resume", "--out", str(out), "--log", kind]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()], out


def expected(lines: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    held = [line for line in lines if "val_loss" in line]
    return {
        "held_out/loss": {line["step"]: line["val_loss"] for line in held},
        "held_out/bits_per_byte": {line["step"]: line["bits_per_byte"] for line in held},
    }


def check(found: dict[str, dict[int, float]], lines: list[dict[str, Any]]) -> None:
    for name, values in expected(lines).items():
        assert found[name] == pytest.approx(values, rel=1e-6)
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    steps = sorted(found["train/loss"])
    assert steps[-1] == 40
    before = 0
    for step in steps:  # the mean of the steps since the point before, none of them twice
        part = [losses[i] for i in range(before + 1, step + 1)]
        assert found["train/loss"][step] == pytest.approx(sum(part) / len(part), rel=1e-6)
        before = step
    assert found["train/tokens"][40] == next(line["tokens"] for line in lines if line["step"] == 40 and "loss" in line)


def test_tensorboard_has_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    lines, out = train(tmp_path, "tensorboard")
    found: dict[str, dict[int, float]] = {}
    for path in sorted((out / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.simple_value
            data = data[16 + length :]
    check(found, lines)


def test_trackio_has_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, dict[int, float]] = {}
    calls: list[Any] = []

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            assert step not in found.setdefault(name, {})
            found[name][step] = value

    fake: Any = types.ModuleType("trackio")
    fake.__spec__ = types.SimpleNamespace(name="trackio")
    fake.init, fake.log, fake.finish = lambda **given: calls.append(given), log, lambda: calls.append("finish")
    monkeypatch.setitem(sys.modules, "trackio", fake)
    lines, _ = train(tmp_path, "trackio")
    check(found, lines)
    assert calls == [{"project": "microgpt", "name": "run", "resume": "allow"}, "finish"] * 2


def test_a_missing_library_is_one_line(
    names_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("microgpt.training.trackers.find_spec", lambda name: None)
    assert main([*new(write_data(tmp_path), tmp_path / "run", log="tensorboard")]) == 5
    assert "--log tensorboard needs tensorboardX, which is not installed" in capsys.readouterr().err
    words = ["finetune", str(names_run), "--data", str(write_data(tmp_path)), "--out", str(tmp_path / "run")]
    assert main([*words, "--log", "tensorboard"]) == 5
    assert not (tmp_path / "run").exists()
