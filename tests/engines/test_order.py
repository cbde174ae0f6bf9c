"""The rungs can be read side by side: what has the same name stands in the same order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from microgpt import engines
from tests.engines.ladder import DEFINITION, LADDER

FOLDER = Path(engines.__file__).parent


def names(rung: str) -> list[str]:
    tree = ast.parse((FOLDER / f"{rung}.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@pytest.mark.parametrize("rung", [rung for rung in LADDER if (FOLDER / f"{rung}.py").is_file()])
def test_same_names_in_the_same_order(rung: str) -> None:
    ours, theirs = names(rung), names(DEFINITION)
    shared = [name for name in ours if name in theirs]
    assert shared == [name for name in theirs if name in ours]
    assert {"linear", "rmsnorm", "rotate", "activate", "attention", "Cache", "forward", "State", "Engine"} <= set(
        shared
    )
