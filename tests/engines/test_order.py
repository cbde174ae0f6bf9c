"""The rungs can be read side by side: names that two of them share stand in the same order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from microgpt import engines
from tests.engines.ladder import DEFINITION, LADDER

FOLDER = Path(engines.__file__).parent


def sources(rung: str) -> list[Path]:
    """The files of a rung in the order in which they are read: one file, or a forward pass and what trains it.

    None for a rung whose code lies in modules of another kind (compiled kernels).
    """
    files = [FOLDER / f"{rung}.py"], [FOLDER / rung / "model.py", FOLDER / rung / "__init__.py"]
    return next((paths for paths in files if all(path.is_file() for path in paths)), [])


def names(rung: str) -> list[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources(rung)]
    return [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_every_rung_but_the_compiled_one_is_read() -> None:
    assert [rung for rung, info in LADDER.items() if not sources(rung)] == [
        rung for rung, info in LADDER.items() if info.requires == "numba"
    ]


@pytest.mark.parametrize("rung", [rung for rung in LADDER if sources(rung)])
def test_same_names_in_the_same_order(rung: str) -> None:
    ours, theirs = names(rung), names(DEFINITION)
    shared = [name for name in ours if name in theirs]
    assert shared == [name for name in theirs if name in ours]
    assert {"linear", "rmsnorm", "rotate", "activate", "attention", "Cache", "forward", "State", "Engine"} <= set(
        shared
    )
