"""README's commands work, and the numbers that it prints are so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.engines.ladder import LADDER
from microgpt.errors import install
from microgpt.training.bench import lines_of_code

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def here() -> dict[str, str]:
    """The environment, with this checkout's package."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def commands() -> list[list[str]]:
    """The microgpt commands of the section Use it."""
    section = README.partition("## Use it")[2].partition("\n## ")[0]
    found = re.findall(r"^\$ (?:\.venv/bin/)?microgpt (.*?)(?:\s+#.*)?$", section, flags=re.M)
    return [shlex.split(line) for line in found]


def test_the_commands_work_as_they_stand(
    real_data: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real_data("names")
    monkeypatch.chdir(tmp_path)
    assert len(commands()) >= 4
    first_names = README.partition("```text\n")[2].partition("```")[0].split()
    for words in commands():
        assert main(words) == 0, words
        printed = capsys.readouterr().out
        if words == ["train", "names"]:
            assert printed.split()[: len(first_names)] == first_names
            assert len(printed.split()) == 20


def test_the_python_example_runs(
    real_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_data("names")
    monkeypatch.chdir(tmp_path)
    example = README.partition("```python\n")[2].partition("```")[0]
    assert "microgpt.load" in example
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    done = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True, check=False, env=here())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("em")


def test_the_ladder_table_is_the_ladder() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(\S+\) \| (.*?) \| (\d+) \|", README, flags=re.M)
    assert [name for name, _, _ in rows] == list(LADDER)
    for name, idea, lines in rows:
        assert idea == LADDER[name].idea
        assert int(lines) == lines_of_code(name), f"{name} has {lines_of_code(name)} lines"


def test_missing_parts_are_installed_from_the_checkout() -> None:
    """PyPI's `microgpt` is another project."""
    root = Path(__file__).parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = set()
    for path in (
        *root.glob("*.md"),
        *(p for top in ("microgpt", "benchmarks", "docs") for p in (root / top).rglob("*")),
    ):
        if path.suffix in (".py", ".md"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"pip install '?microgpt", text), path
            named |= {*re.findall(r"install\('(\w+)'\)", text), *re.findall(r"-e '\.\[(\w+)\]'", text)}
    assert "scrape" in named
    assert named <= {*extras}
    assert "pip install -e '.[scrape]'" in install("scrape")
