"""The search behind the table of recipes in its smallest form: it goes on where it ended, nothing is trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.recipes import held_out, search
from benchmarks.recipes.texts import SEARCHED, text
from microgpt.recipes.choose import Plan
from microgpt.recipes.table import TEXT, Recipe

RECIPES = Path(search.__file__).parent
TALE = [f"tale{n}" for n in range(40)]
TALES = "".join(
    f"the {a} of the {b}\nwent out, and a {b} came to the {a}\n\n" for a in "king fox".split() for b in TALE
)


@pytest.fixture
def tales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MICROGPT_DATA_DIR", str(tmp_path))
    (tmp_path / "tales.txt").write_text(TALES)
    return "tales.txt"


def test_a_search_goes_on(
    tales: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "trials.jsonl"
    words = [str(results), "--texts", tales, "--minutes", "0.0005"]
    search.main([*words, "--vary", "dropout=0.1"])
    first, changed = search.read(results)
    assert (first["row"]["dropout"], changed["row"]["dropout"]) == (TEXT[0].dropout, 0.1)
    assert first["row"] | {"dropout": 0.1} == changed["row"]
    assert 0 < first["bits_per_byte"] < 12
    results.write_text(results.read_text() + '{"text": "tales.txt", "row": {"n_layer": 2}')  # an interruption
    asked = list[float]()

    def trial(cell: search.Cell, plan: Plan, threads: int) -> dict[str, Any]:
        asked.append(plan.layer["model"]["dropout"])
        return {"bits_per_byte": 1.5}

    monkeypatch.setattr(search, "trial", trial)
    search.main([*words, "--vary", "dropout=0.1", "dropout=0.2"])
    assert asked == [0.2]
    search.main([*words, "--budget", "0"])
    assert len(search.read(results)) == 3
    capsys.readouterr()
    search.main([str(results), "--table"])
    said = capsys.readouterr().out.splitlines()
    own = TEXT[0]
    row = f"{own.n_layer} x {own.n_embd}, vocabulary {own.vocabulary}, rate {own.learning_rate:g}, "
    row += f"dropout {own.dropout:g}, decay {own.weight_decay:g}"
    assert said[-1].startswith(f"| tales.txt, all, 0.0005 min | {row} | ")
    assert said[-1].endswith("; dropout 0.2: **1.500** |")

    asked.clear()
    for minutes in ("10", "60"):
        search.main([str(results), "--texts", tales, "--minutes", minutes, "--fields"])
    assert len(asked) == 1, "in either time the text is passed as often as it may"
    assert len(search.read(results)) == 5

    asked.clear()
    held_out.main([str(tmp_path / "unseen.jsonl"), "--texts", tales, "--minutes", "0.0005"])
    assert asked == [row.dropout for row in TEXT[:2]], "the chosen row, and the nearest of longer texts"
    assert capsys.readouterr().out.endswith("| 10 kB and 0.2 M: 1.500 | 50 kB and 0.5 M: 1.500 | 0.000 |\n")


def test_one_field_at_a_time() -> None:
    fields = [f for f in Recipe._fields if f != "n_head"]
    for row in TEXT:
        for other in search.neighbours(row, search.FIELDS):
            assert sum(getattr(row, f) != getattr(other, f) for f in fields) == 1
            assert other.n_embd % (2 * other.n_head) == 0


def test_a_mixture_is_cut_to_a_length(tales: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("once upon a time\n" * 20)
    found = text("tales.txt+short.txt", 1, tmp_path).read_bytes()
    assert found.count(b"once upon a time") == 20
    assert 900 < len(found) <= 1002
    assert text("tales.txt", 0, tmp_path) == tmp_path / "tales.txt"


def test_the_end_of_a_text_is_not_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROGPT_DATA_DIR", str(tmp_path))
    chats = [json.dumps([{"role": "user", "content": f"{i} " * 500}]) for i in range(1000)]
    (tmp_path / "chat_oasst1.jsonl").write_text("\n".join(chats) + "\n")
    found = text("chat_end.jsonl", 60, tmp_path)
    assert (found.name, found.stat().st_size <= 60_000) == ("chat_end.jsonl", True)
    first = found.read_text().splitlines()[0]
    assert first in chats[500:], "whole conversations, of the last 600 kB"


def test_the_table_of_trainings_is_that_of_their_file() -> None:
    """And so are their numbers, which the page states."""
    lines, page = search.read(RECIPES / "trials.jsonl"), (RECIPES / "MEASURED.md").read_text()
    assert search.table(lines) in page
    cells = {(line["text"], line["kilobytes"], line["minutes"]) for line in lines}
    assert f"{len(cells)} cells, {len({search.identity(line) for line in lines})} trainings" in page
    asked = {(name, size, minutes) for name in SEARCHED for size in SEARCHED[name] for minutes in search.MINUTES}
    assert not asked - cells, "every text, length and time has a training"
