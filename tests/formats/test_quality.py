from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.formats.quality import table
from microgpt.runs import checkpoint
from tests.formats.conftest import Build, logits


def test_loss_and_bits_are_what_they_are_defined_as(build: Build, tmp_path: Path) -> None:
    source = build(dtype="float64")
    (tmp_path / "text.txt").write_text("ab\nc\n")
    rows, _ = table(checkpoint.read(source), [], str(tmp_path / "text.txt"))
    nats = []
    for tokens in ([26, 0, 1, 26], [26, 2, 26]):
        z = logits(source, tokens[:-1])
        nats += [np.log(np.exp(row).sum()) - row[t] for row, t in zip(z, tokens[1:], strict=True)]
    assert rows[0]["loss"] == pytest.approx(np.mean(nats), rel=1e-12)
    assert rows[0]["bits_per_byte"] == pytest.approx(np.sum(nats) / math.log(2) / 3, rel=1e-12)


def test_it_is_measured_on_held_out_documents(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i} of the text\n" for i in range(50)))
    run = str(tmp_path / "run")
    arguments = ["--steps", "20", "--val-fraction", "0.2", "--n-embd", "32", "--samples", "0", "--out", run]
    assert main(["train", str(text), *arguments]) == 0
    rows, about = table(checkpoint.read(Path(run)), ["int8", "float16", "bfloat16"])
    assert about == f"10 documents of {text}, held out"
    assert [row["storage"] for row in rows] == ["float32", "int8", "float16", "bfloat16"]
    assert 0 < max(abs(row["loss"] - rows[0]["loss"]) for row in rows) < 0.02
