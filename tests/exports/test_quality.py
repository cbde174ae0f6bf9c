from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from microgpt import checkpoint
from microgpt.cli import main
from microgpt.exports.quality import measure, table
from tests.exports.conftest import Build, logits


def test_loss_and_bits_are_what_they_are_defined_as(build: Build) -> None:
    source = build(dtype="float64")
    saved = checkpoint.read(source)
    loss, bits = measure(saved, saved.weights(), ["ab", "c"])
    nats = []
    for tokens in ([26, 0, 1, 26], [26, 2, 26]):
        z = logits(source, tokens[:-1])
        nats += [np.log(np.exp(row).sum()) - row[t] for row, t in zip(z, tokens[1:], strict=True)]
    assert loss == pytest.approx(np.mean(nats), rel=1e-12)
    assert bits == pytest.approx(np.sum(nats) / math.log(2) / 3, rel=1e-12)


def test_it_is_measured_on_held_out_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i} of the text\n" for i in range(50)))
    run = str(tmp_path / "run")
    arguments = ["--steps", "20", "--val-fraction", "0.2", "--n-embd", "32", "--samples", "0", "--out", run]
    assert main(["train", str(text), *arguments]) == 0
    rows, about = table(checkpoint.read(Path(run)), ["int8", "float16", "bfloat16"])
    assert about == "10 held-out documents"
    assert [row["storage"] for row in rows] == ["float32", "int8", "float16", "bfloat16"]
    assert max(abs(row["loss"] - rows[0]["loss"]) for row in rows) < 0.02
    text.unlink()
    assert table(checkpoint.read(Path(run)), [])[1] == "64 texts of its own (its data is not here)"
