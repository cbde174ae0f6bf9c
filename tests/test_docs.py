"""The documents hold: line numbers, links, and what README says of code and files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import gpt
from microgpt.config import Model
from microgpt.engines import scalar, tensor
from microgpt.model import init_weights
from microgpt.training.bench import lines_of_code
from tests.mutants import MUTANTS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import ladder  # noqa: E402
import refresh  # noqa: E402

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/records/*.md"), ROOT / "benchmarks/RECORDS.md"]
)


@pytest.mark.parametrize("page", refresh.PAGES, ids=lambda page: page.name)
def test_line_numbers_are_those_of_the_code(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(refresh.LINK.findall(text)) > (0 if page.name == "ladder.md" else 25)
    assert refresh.refreshed(text) == text, "run python docs/refresh.py"
    moved = text.replace("#L", "#L9")
    assert refresh.refreshed(moved) == text


def test_code_that_is_gone_or_not_unique_is_refused() -> None:
    for code in ("no such code", "import"):
        with pytest.raises(ValueError, match="expected one"):
            refresh.line_of(code, "../gpt.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


EXCERPT = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def test_the_excerpts_of_the_ladder_are_in_the_files() -> None:
    """Each piece of a block, between lines of "…", is in the last file named before it, one after the other."""
    text = (ROOT / "docs/ladder.md").read_text(encoding="utf-8")
    excerpts = list(EXCERPT.finditer(text))
    assert len(excerpts) > 8
    for excerpt in excerpts:
        path = re.findall(r"\]\(\.\./(microgpt/\S+?\.py)\)", text[: excerpt.start()])[-1]
        source, at = (ROOT / path).read_text(encoding="utf-8"), 0
        for piece in excerpt[1].split("…\n"):
            at = source.find(piece, at)
            assert at >= 0, f"{path} does not have\n{piece}"


def test_the_times_of_the_ladder_are_those_of_the_readme() -> None:
    text = (ROOT / "docs/ladder.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| `(\w+)` \| \[`(\w+)`\]\((#\S+)\) \| (\S+ .s) → (\S+ .s) \|", text, re.M)
    time = {name: label.split(",")[0] for name, _, _, label in ladder.rows()}
    assert [below for below, _, _, _, _ in steps] + [steps[-1][1]] == [
        "scalar", "functional", "tensor", "manual", "manual", "pytorch"
    ]  # fmt: skip
    for below, above, anchor, before, after in steps:
        assert (before, after) == (time[below], time[above])
        assert anchor == f"#{below}--{above}"
        assert f"## {below} → {above}\n" in text


def test_the_counts_of_the_ladder() -> None:
    text = (ROOT / "docs/ladder.md").read_text(encoding="utf-8")
    lines = {name: lines_of_code(name) for name in ("manual", "fused")}
    assert "more than ten times as many as `manual`" in text
    assert lines["fused"] > 10 * lines["manual"]
    assert sum(mutant.file == "engines/manual.py" for mutant in MUTANTS) > 20
    assert "in\nmore than twenty ways" in text


def test_the_graphs_of_the_ladder_have_as_many_nodes_as_it_says() -> None:
    model, row = Model(vocab_size=27), [26, 4, 12, 12, 0, 26]  # emma
    w = init_weights(model, Random(42))
    numbers = {name: [[scalar.Value(x) for x in line] for line in rows.tolist()] for name, rows in w.items()}
    losses = scalar.row_losses(model, numbers, row, [True] * 6)
    values = {name: [[gpt.Value(x) for x in line] for line in rows.tolist()] for name, rows in w.items()}
    cache: gpt.Cache = [([], [])]
    probs = [gpt.softmax(gpt.gpt(values, token, i, cache)) for i, token in enumerate(row[:-1])]
    arrays = {name: tensor.Tensor(matrix) for name, matrix in w.items()}
    logits = tensor.forward(model, arrays, np.array([row[:-1]]))
    ends = [
        sum(losses, start=scalar.Value(0.0)) * (1 / 5),
        sum((p[t].log() * -1 for p, t in zip(probs, row[1:], strict=True)), gpt.Value(0.0)) * (1 / 5),
        tensor.cross_entropy(logits, np.array(row[1:]), np.full(5, 1 / 5)),
    ]
    text = (ROOT / "docs/ladder.md").read_text(encoding="utf-8")
    for end, said in zip(ends, ("graph of\n42,800 numbers", "has 6,611", "graph of 75 nodes"), strict=True):
        assert f"{nodes(end):,}" in said
        assert said in text


def nodes(end: Any) -> int:
    """The number of nodes of the graph of a number."""
    found, stack = {end}, [end]
    while stack:
        for child in stack.pop().children:
            if child not in found:
                found.add(child)
                stack.append(child)
    return len(found)
