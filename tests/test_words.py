"""Names are the field's own: names that were replaced do not come back, and rates are given per step, not a step."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The old name, and the name that stands for the same thing today.
REPLACED = {
    "Writer": "LanguageModel, or Exporter",
    "Talker": "ChatModel",
    "Talk": "Repl",
    "Loop": "Trainer",
    "take_up": "restore",
    "Job": "RunSetup",
    "Material": "TokenizedData",
    "Wish": "StopRequest",
    "hear": "handle",
    "raised": "raise_on_signal",
    "Pass": "MicroBatch",
    "rows_a_pass": "micro_batch_size",
    "Rung": "EngineInfo",
    "Part": "Phase, or Module",
    "Told": "ProgressCallback",
    "Tell": "ProgressCallback",
    "silent": "no_progress",
    "quiet": "no_progress",
    "door": "entry point",
    "onwards": "generate_endless",
    "streams": "generate_batch",
    "EXTREME": "MAX_TEMPERATURE",
    "AHEAD": "DRAWS_PER_CALL",
    "SHORT": "CALL_SECONDS",
    "heat": "temperature",
    "hand_back": "from_numpy",
    "twister_of": "to_numpy",
    "first_values": "init_weights",
    "crew": "n_threads",
    "meet": "barrier",
    "bring": "prefetch",
    "Coming": "Prefetch",
    "ahead": "prefetch",
    "turned": "transposed",
    "fours": "round_up_4",
    "desk": "workspace",
    "future": "causal_mask",
    "witness": "reference",
}

RATE = re.compile(
    r"\b(?:steps|tokens|documents?|rows|bits|nats|seconds|microseconds|[µm]s|operations|bytes|time|loss|rate) an? "
    r"(?:step|token|byte|second|minute|parameter|document|name|rung|prompt)\b",
    re.IGNORECASE,
)


def names(source: str) -> Iterator[tuple[int, str]]:
    """The lines and names of everything that Python code defines, imports or uses, without leading underscores."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield line, name.strip("_")
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield line, name.strip("_")
            case ast.alias(name=name, asname=asname):
                yield line, (asname or name.rpartition(".")[2]).strip("_")


def test_a_replaced_name_is_found() -> None:
    code = "import old.first_values\nclass _Writer:\n    def a(self, heat): self.desk = twister_of(heat)"
    found = {name for _, name in names(code)}
    assert {"first_values", "Writer", "heat", "desk", "twister_of"} <= found & {*REPLACED}


SOURCES = sorted(path for folder in ("microgpt", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_replaced_name_comes_back(path: Path) -> None:
    for line, name in names(path.read_text(encoding="utf-8")):
        assert name not in REPLACED, f"line {line}: {name} is called {REPLACED[name]} today"
        assert not re.search(r"_an?_(step|token|second|row|pass|name)$", name), f"line {line}: {name}: per, not a"


def test_rates_are_given_per_step() -> None:
    assert RATE.search("4 µs a step")
    assert not RATE.search("4 µs per step, of the bytes that a token has")
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *SOURCES]
    for path in pages:
        if path.name in ("log.md", "test_words.py"):  # entries stay as they were written; what is found is written here
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not RATE.search(line), f"{path.relative_to(ROOT)}:{number}: per, not a: {line.strip()}"
