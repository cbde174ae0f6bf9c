"""`microgpt generate`: texts, seeds and the line between long samples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.terminal import LONG_SAMPLE, SEPARATOR, SampleWriter

Output = pytest.CaptureFixture[str]


def test_texts_are_new_each_time_and_the_seed_repeats_them(names_run: Path, capsys: Output) -> None:
    words = ["generate", str(names_run), "-n", "9", "--temperature", "1"]
    printed = []
    for _ in range(2):
        assert main(words) == 0
        printed.append(capsys.readouterr())
    assert printed[0].out != printed[1].out
    seed = re.search(r"^seed    (\d+)$", printed[0].err, re.M)
    assert seed
    assert main([*words, "--seed", seed[1]]) == 0
    again = capsys.readouterr()
    assert again.out == printed[0].out
    assert "seed" not in again.err


def test_json_has_the_seed(names_run: Path, capsys: Output) -> None:
    words = ["generate", str(names_run), "-n", "2", "--json"]
    for flags in ([], ["--seed", "7"], ["--seed", "run"]):
        assert main([*words, *flags]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["seed"] == {"7": 7, "run": "run"}.get((flags or ["", ""])[1], found["seed"])
        assert main([*words, "--seed", str(found["seed"])]) == 0
        assert json.loads(capsys.readouterr().out) == found


def test_no_seed_is_printed_where_nothing_is_drawn(names_run: Path, capsys: Output) -> None:
    assert main(["generate", str(names_run), "-n", "2", "--temperature", "0"]) == 0
    assert "seed" not in capsys.readouterr().err


def test_a_chat_prints_its_seed_at_its_end(chat_run: Path, capsys: Output) -> None:
    words = ["chat", str(chat_run), "-p", "hi", "--temperature", "1"]
    assert main(words) == 0
    first = capsys.readouterr()
    seed = first.err.split()[-1]
    assert main([*words, "--seed", seed]) == 0
    assert capsys.readouterr().out == first.out


def test_short_samples_have_a_line_each(capsys: Output) -> None:
    writer = SampleWriter()
    for sample in ("anna", "emma"):
        writer.write([sample])
    assert capsys.readouterr().out == "anna\nemma\n"


@pytest.mark.parametrize("long", [["one\n", "two"], ["x" * LONG_SAMPLE, "y"]])
def test_long_samples_are_separated(long: list[str], capsys: Output) -> None:
    writer = SampleWriter()
    for sample in (["anna"], long, ["emma"]):
        writer.write(sample)
    assert capsys.readouterr().out == f"anna\n{''.join(long)}\n{SEPARATOR}\nemma\n"
