"""`microgpt info` of a fine-tuned run names the model that it continued from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.formats import export
from microgpt.terminal import amount

RUNS = Path(__file__).parents[1] / "compatibility" / "fixtures" / "runs"


@pytest.mark.parametrize(
    ("run", "base"),
    [
        ("adapters", "runs/names, fine-tuned: adapters of rank 2"),
        ("replayed", "runs/chat, fine-tuned: all weights"),
        ("names", None),
    ],
)
def test_the_base_is_named(run: str, base: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for flags in ([], ["--verbose"]):
        assert main(["info", str(RUNS / run), *flags]) == 0
        lines = capsys.readouterr().out.splitlines()
        found[len(flags)] = [line.split(maxsplit=1)[1].strip() for line in lines if line[:5] == "base "]
    assert main(["info", str(RUNS / run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert found[0] == ([base] if base else [])
    assert found[1] == ([base, base.partition(",")[0]] if base else [])
    assert facts["base"] == (base and base.partition(",")[0])


def test_it_is_a_screen_of_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(RUNS / "names")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12
    said = " ".join(lines)
    assert not re.search(r"\d\.\d{5}", said)
    for fragment in (
        " parameters: 1 layer, ",
        "tokens    char, vocabulary ",
        " documents",
        " nats per token",
        " weights; ",
    ):
        assert fragment in said, fragment


def test_a_model_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(export(RUNS / "names", "safetensors", tmp_path / "model").path)]) == 0
    assert re.search(r"^files +[\d.]+ kB, [\d.]+ kB of it weights$", capsys.readouterr().out, re.M)


def test_amounts_are_rounded() -> None:
    sizes = (0, 999, 1000, 9940, 9960, 999_499, 999_500, 12_345_678, 2.5e9)
    said = ["0 bytes", "999 bytes", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "12 MB", "2.5 GB"]
    assert [amount(size) for size in sizes] == said
