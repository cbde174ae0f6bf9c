"""Metrics as columns: followed while they grow, written anew, damaged, and thinned with their extremes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.runs import history
from microgpt.runs.history import History, Table


def line(step: int, **figures: Any) -> str:
    return (
        json.dumps({"step": step, **(figures or {"loss": 3.0 + step, "lr": 0.01, "tokens": 7 * step, "seconds": step})})
        + "\n"
    )


def append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def steps(read: History) -> list[float]:
    read.poll()
    return read.training.column("step").tolist()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_lines_are_read_as_they_come(file: Path) -> None:
    read = History(file)
    assert steps(read) == []
    append(file, line(1) + line(2) + line(2, val_loss=2.5, bits_per_byte=1.2) + line(3)[:20])
    assert steps(read) == [1, 2]
    assert read.held_out.points(9) == {"step": [2], "val_loss": [2.5], "bits_per_byte": [1.2], "mean": [2.5]}
    append(file, line(3)[20:])
    assert steps(read) == [1, 2, 3]
    assert read.training.points(9, first=1, last=2) == {
        "step": [2], "loss": [5], "lr": [0.01], "grad_norm": [None], "tokens": [14], "seconds": [2],
        "mean": [5],
    }  # fmt: skip
    assert read.generation == 0


def test_a_file_that_is_written_anew_is_read_anew(file: Path) -> None:
    read = History(file)
    append(file, "".join(map(line, range(1, 50))))
    assert len(steps(read)) == 49
    file.write_text("".join(map(line, range(1, 20))))  # cut, in place
    assert (steps(read)[-1], read.generation) == (19, 1)
    new = file.with_name("new")
    new.write_text("".join(line(step, loss=1.0) for step in range(1, 99)))  # longer, and replaced
    new.replace(file)
    assert (steps(read)[-1], read.generation) == (98, 2)
    assert read.training.column("loss").tolist() == [1.0] * 98
    file.write_text("".join(line(step, loss=2.0) for step in range(1, 99)))  # as long, in place
    assert steps(read)[-1] == 98
    assert read.training.column("loss").tolist() == [2.0] * 98
    file.unlink()
    assert (steps(read), read.generation) == ([], 4)


def test_damaged_lines_are_left_out(file: Path) -> None:
    read = History(file)
    append(
        file,
        line(1)
        + "nonsense\n{}\n[]\n"
        + '{"step": "2", "loss": 1}\n{"step": 2.5, "loss": 1}\n{"step": 3, "loss": NaN}\n',
    )
    append(
        file, line(4, loss=1e400) + line(5) + "x" * (3 * history.PIECE) + "\n" + line(6) + '{"step": 7, "loss": []}\n'
    )
    append(file, line(6) + line(8, loss=2.0, lr="x", seconds=None) + "[" * 99999 + "\n")
    assert steps(read) == [1, 5, 6, 8]
    assert read.training.points(9, first=6)["lr"] == [None]


def table_of(losses: Iterable[float], first: int = 0) -> Table:
    table = Table(("step", "loss"))
    table.extend({"step": step, "loss": loss} for step, loss in enumerate(losses, first))
    return table


def test_extremes_stay() -> None:
    """And means: of every part of the steps, whatever was thinned before."""
    rng = Random(1)
    values = np.array([rng.gauss(3, 1) for _ in range(5000)])
    values[1234], values[4321] = 50, -50
    points = table_of(values.tolist()).points(100)
    assert {0, 1234, 4321, 4999} <= set(points["step"])
    assert len(points["step"]) <= 102
    steps, means = np.array(points["step"]), np.array(points["mean"])
    assert (np.diff(steps) > 0).all()
    edges = np.linspace(0, 4999, 51)
    for begin, end in zip(edges[:-1], [*edges[1:-1], 5000], strict=True):
        inside = (steps >= begin) & (steps < end)
        part = values[int(np.ceil(begin)) : int(np.ceil(end))]
        assert (values[steps[inside].astype(int)].min(), values[steps[inside].astype(int)].max()) == (
            part.min(),
            part.max(),
        )
        assert means[inside] == pytest.approx(part.mean())
    assert table_of([math.nan] * 500).points(10)["loss"][0] is None


def test_memory_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_ROWS", 400)
    read = History(file)
    for begin in range(0, 3000, 100):
        losses = {step: 99.0 if step == 777 else 1.0 for step in range(begin, begin + 100)}
        append(file, "".join(line(step, loss=loss) for step, loss in losses.items()))
        read.poll()
    assert len(read.training) <= 402
    assert read.training.rows == 3000
    assert (steps(read)[0], steps(read)[-1], max(read.training.column("loss"))) == (0, 2999, 99)
    points = read.training.points(60)
    assert np.diff(points["step"]).max() <= 200  # early steps are as dense as late ones
    mean = np.mean([each for each in points["mean"] if each and each < 1.0001])
    assert mean == pytest.approx(1)
    assert max(each for each in points["mean"] if each) == pytest.approx(1 + 98 / 100, rel=0.3)


def test_a_hundred_thousand_steps(file: Path) -> None:
    file.write_text("".join(map(line, range(1, 100_001))))
    began = time.process_time()
    read = History(file)
    read.poll()
    points = read.training.points(2000)
    assert time.process_time() - began < 10  # some 0.5 s
    assert 1000 < len(points["step"]) <= 2002
    began = time.process_time()
    append(file, line(100_001))
    read.poll()
    assert read.training.points(2000, first=100_000)["step"] == [100_001]
    assert time.process_time() - began < 1


def test_numbers_beyond_every_float_are_no_numbers(file: Path) -> None:
    huge = "9" * 400
    lines = [f'{{"step": 1, "loss": {huge}, "lr": 1}}', f'{{"step": 2, "loss": 3, "tokens": {huge}}}']
    file.write_text("\n".join([*lines, f'{{"step": {huge}, "loss": 1}}']) + "\n")
    history = History(file)
    history.poll()
    assert history.training.column("step").tolist()[-1] == 2
    assert np.isnan(history.training.column("tokens")[-1])
