"""`microgpt info` of a fine-tuned run names the model that it continued from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microgpt.cli import main

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
    assert main(["info", str(RUNS / run)]) == 0
    found = [line.split(maxsplit=1)[1].strip() for line in capsys.readouterr().out.splitlines() if line[:5] == "base "]
    assert main(["info", str(RUNS / run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert found == ([base, base.partition(",")[0]] if base else [])
    assert facts["base"] == (base and base.partition(",")[0])
