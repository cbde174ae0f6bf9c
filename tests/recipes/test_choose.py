"""The choice: a pure function of the text's facts, the speeds, the time and what is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from microgpt.config import Config, merge
from microgpt.recipes.choose import Plan, choose, rows_for
from microgpt.recipes.facts import Facts
from microgpt.recipes.table import CHAT, SHORT_LINES, TEXT

BOOK = Facts("paragraphs", 1_000_000, 7_000, 70, 65, 0.0, False)
NAMES = Facts("short lines", 228_000, 32_000, 9, 27, 0.0, False)
TALKS = Facts("chat", 2_900_000, 2_400, 3_000, 200, 0.0, False)


def plan(facts: Facts = BOOK, seconds: float = 120.0, speed: float = 15_000.0, **given: dict[str, Any]) -> Plan:
    return choose(facts, seconds, dict.fromkeys(rows_for(facts, given), speed), given)


def config(chosen: Plan, **given: dict[str, Any]) -> Config:
    return Config.from_dict(merge({"data": {"path": "a.txt"}}, chosen.layer, given))


def test_every_recipe_is_a_configuration() -> None:
    for facts, table in ((BOOK, TEXT), (NAMES, SHORT_LINES), (TALKS, CHAT)):
        for row in table:
            sized = replace(facts, bytes=int(row.bytes))
            chosen = plan(sized, row.tokens / 1e4, 1e4)
            found = config(chosen)
            assert (found.model.n_embd, found.optim.learning_rate) == (row.n_embd, row.learning_rate)
            assert found.model.family == "modern"
            assert found.run.eval_every == found.run.checkpoint_every > 0
            assert len(chosen.lines) == 5
            assert max(map(len, chosen.lines)) <= 100


def test_the_first_line_says_the_time_and_what_is_held_out() -> None:
    assert plan().lines[0] == "time    2.0 min (--time), a tenth of the text held out (--val-fraction)"


def test_the_same_facts_choose_the_same() -> None:
    assert plan() == plan()


def test_more_time_and_more_speed_are_more_tokens() -> None:
    slow, fast = config(plan(seconds=60.0, speed=5_000.0)), config(plan(seconds=600.0, speed=15_000.0))
    assert slow.model.n_embd < fast.model.n_embd
    assert plan(seconds=300.0, speed=10_000.0).layer == plan(seconds=600.0, speed=5_000.0).layer


@pytest.mark.parametrize(
    "given",
    [
        {"model": {"n_embd": 100}},
        {"model": {"family": "classic", "n_layer": 1, "block_size": 32}},
        {"data": {"tokenizer": "char", "val_fraction": 0.0}},
        {"data": {"tokenizer_size": 300, "format": "lines"}},
        {"data": {"val_path": "b.txt"}},
        {"optim": {"learning_rate": 1e-5}},
        {"run": {"steps": 7, "batch_size": 3, "eval_every": 2}},
        {"run": {"epochs": 2.0, "patience": 0}},
    ],
)
def test_what_is_given_stays(given: dict[str, Any]) -> None:
    found = config(plan(**given), **given)
    for section, keys in given.items():
        assert {key: getattr(getattr(found, section), key) for key in keys} == keys
    if "steps" in given.get("run", {}):
        assert found.run.steps == 7
    if "tokenizer" in given.get("data", {}):
        assert found.data.tokenizer_size is None


def test_a_tiny_text_is_not_learnt_by_heart() -> None:
    tiny = plan(replace(BOOK, bytes=1_000, documents=20))
    found = config(tiny)
    assert found.run.steps * found.run.batch_size * found.model.block_size < 200_000
    assert found.data.val_fraction == 0.1


def test_of_a_huge_text_less_is_held_out() -> None:
    found = config(plan(replace(BOOK, bytes=10**10, documents=10**8)))
    assert 0 < (found.data.val_fraction or 0) < 0.001


def test_of_a_few_documents_nothing_is_held_out() -> None:
    chosen = plan(replace(BOOK, kind="jsonl", bytes=5_000, documents=2))
    assert (config(chosen).data.val_fraction, config(chosen).run.eval_every) == (0, 0)
    assert "nothing of the text held out" in chosen.lines[0]


def test_chunks_fit_the_text() -> None:
    data = config(plan(Facts("chunks", 2_000, 15, 2_000, 30, 0.0, False))).data
    assert (data.chunk_size, data.overlap, data.fold_whitespace) == (20, 0, False)
    assert config(plan(Facts("chunks", 10**6, 7_800, 10**6, 30, 0.0, True))).data.strip_gutenberg
