"""Formats are found by their files' names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from microgpt import formats
from microgpt.cli import main
from microgpt.formats import ALIASES, FORMATS, export, exporter
from microgpt.formats.imports import READERS
from tests.formats.conftest import KGX, Build

FOLDER = Path(formats.__file__).parent


def defining(function: str) -> set[str]:
    """The files of the package that define this function."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.py")}
    return {
        name
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == function
    } - {"imports"}


def test_every_file_that_writes_is_a_format_and_every_file_that_reads_is_found() -> None:
    assert defining("write") == FORMATS.keys()
    assert defining("read") == set(READERS.values())
    assert set(ALIASES.values()) <= FORMATS.keys()


@pytest.mark.parametrize("to", [*FORMATS, *ALIASES])
def test_a_format_is_the_file_of_its_name(to: str) -> None:
    assert exporter(to).__name__ == f"microgpt.formats.{ALIASES.get(to, to)}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("to", FORMATS)
def test_help_and_documents_name_every_format(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "--help"])
    assert re.search(rf"\b{to}\b", capsys.readouterr().out)
    assert f"`{to}`" in (FOLDER.parents[1] / "docs" / "exports.md").read_text(encoding="utf-8")


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, microgpt.cli; microgpt.cli.main(['export', '--help']);"
        "print([m for m in ('numpy', 'pydantic', 'onnx', 'gguf', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_json_is_kgx_by_its_earlier_name(build: Build, tmp_path: Path) -> None:
    source = build(**KGX)
    done = export(source, "json", tmp_path / "one.json")
    again = export(source, "kgx", tmp_path / "two.json")
    assert (done.to, again.to) == ("json", "kgx")
    assert done.path.read_bytes() == again.path.read_bytes()


def test_the_same_model_is_the_same_file_in_every_process(build: Build, tmp_path: Path) -> None:
    """The safetensors library hands tensors back in another order in each process."""
    source = build(n_layer=6)
    code = (
        "import sys; from pathlib import Path; from microgpt.formats import export;"
        "export(Path(sys.argv[1]), 'kgx', Path(sys.argv[2]))"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, source, tmp_path / name], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    names = list(json.loads((tmp_path / "one").read_bytes())["state_dict"])
    assert names[:2] == ["wte", "wpe"]
