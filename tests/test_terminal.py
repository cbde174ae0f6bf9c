"""Text of others on a terminal: one module prints, and nothing passes it that a terminal would obey."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt
from microgpt import terminal
from microgpt.terminal import output, output_coloured, output_exactly, output_json, output_table, printable, say

PACKAGE = Path(microgpt.__file__).parent
HOSTILE = "a\x1b[2Jb\x9b31mc\x07\x7f\x00\r\u009dd\u202ee\u2066f\u2028g\udcff"
HARMLESS = "a\\x1b[2Jb\\x9b31mc\\x07\\x7f\\x00\\r\\x9dd\\u202ee\\u2066f\\u2028g\\udcff"

# What else touches a standard stream or rich: by file and function.
ALLOWED = {
    ("cli.py", "main", "sys.stdout"): "flushes it, and closes it where nobody reads on",
    ("cli.py", "_open_streams", "sys.stdout"): "names of files that are no text",
    ("progress.py", "_bar", "rich"): "a bar of numbers",
    ("datasets.py", "_bar", "rich"): "a bar of numbers, with the name of a data set of the package",
    ("generate.py", "generate", "sys.stdout"): "whether it is a terminal",
    ("progress.py", "plan", "sys.stderr"): "whether it is a terminal",
    ("side_by_side.py", "_draw", "rich"): "bars of numbers, with names of the command's own, such as seed42",
    ("side_by_side.py", "show", "sys.stderr"): "whether it is a terminal",
    ("datasets.py", "_bar", "sys.stderr"): "whether it is a terminal",
    ("capture.py", "_capture", "warnings.warn"): "of the library that refused a CUDA graph; nothing of a user's text",
    ("repl.py", "loop", "input"): "a fixed prompt",
}


def prints(tree: ast.AST) -> set[tuple[str, str]]:
    """The function and the name of what could reach a terminal."""
    found = set()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for where, node in [("", node) for node in ast.walk(tree)] + [(f.name, n) for f in functions for n in ast.walk(f)]:
        if isinstance(node, ast.Name) and node.id in {"print", "input"} and isinstance(node.ctx, ast.Load):
            found.add((where, node.id))
        elif isinstance(node, ast.Import):
            found |= {(where, "rich") for alias in node.names if alias.name.split(".")[0] == "rich"}
        elif isinstance(node, ast.ImportFrom):
            root = (node.module or "").split(".")[0]
            found |= {(where, "rich")} if root == "rich" else set()
            found |= {(where, f"sys.{alias.name}") for alias in node.names if root == "sys" and alias.name[:3] == "std"}
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner == "sys" and node.attr.strip("_") in {"stdout", "stderr"}:
                found.add((where, f"sys.{node.attr.strip('_')}"))
            if (owner == "traceback" and node.attr.startswith("print")) or (
                owner == "warnings" and node.attr == "warn"
            ):
                found.add((where, f"{owner}.{node.attr}"))
    inside = {name for where, name in found if where}
    return {(where, name) for where, name in found if where or name not in inside}


def found_in(path: Path) -> set[tuple[str, str, str]]:
    return {(path.name, *found) for found in prints(ast.parse(path.read_text(encoding="utf-8")))}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_module_prints(path: Path) -> None:
    if path.name == "terminal.py":
        assert found_in(path)
    elif "templates" not in path.parts:  # those run elsewhere
        assert found_in(path) - ALLOWED.keys() == set()


def test_every_exception_is_needed() -> None:
    assert ALLOWED.keys() <= {found for path in PACKAGE.rglob("*.py") for found in found_in(path)}


@pytest.mark.parametrize(
    "code",
    ["print(x)", "say = print", "def f(): sys.stderr.write(x)", "from rich.console import Console", "import rich.table",
     "from sys import stdout", "sys.__stderr__.write(x)", "traceback.print_exc()", "warnings.warn(x)", "input(x)"],
)  # fmt: skip
def test_the_test_sees_prints(code: str) -> None:
    assert prints(ast.parse(code))
    assert not prints(ast.parse("say(x); output(x); sys.stdin.read(); traceback.format_exc(); sys.argv"))


def test_control_characters_are_escaped() -> None:
    assert printable(HOSTILE) == HARMLESS
    assert printable("two\nlines\tand é 中 👩‍👩‍👧 \xa0 [red]x[/]") == "two\nlines\tand é 中 👩‍👩‍👧 \xa0 [red]x[/]"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE}\nmicrogpt: forged")
    say("two\nlines", lines=True)
    assert capsys.readouterr().err == f"{HARMLESS}\\nmicrogpt: forged\ntwo\nlines\n"


@pytest.mark.parametrize("on_terminal", [False, True])
def test_results_are_changed_for_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, on_terminal: bool
) -> None:
    monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: on_terminal)
    text = HOSTILE.replace("\udcff", "").replace("\r", "")
    shown = HARMLESS.replace("\\udcff", "").replace("\\r", "") if on_terminal else text
    output(text, end="|")
    output_exactly(text)
    assert capsys.readouterr().out == f"{shown}|{shown}" + "\n" * on_terminal


def test_tables_take_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]x[/red] [/] [link=http://x]y"
    output_table([{"header": ""}, {}], [(text, HOSTILE)], title=f"{text}{HOSTILE}", width=200)
    output_coloured([text, HOSTILE])
    seen = capsys.readouterr().out
    assert seen.count(text) == 3
    assert seen.count(HARMLESS) == 3
    assert not terminal.CONTROL.search(seen)


def test_json_is_harmless_too(capsys: pytest.CaptureFixture[str]) -> None:
    output_json({HOSTILE: [HOSTILE]})
    line = capsys.readouterr().out
    assert json.loads(line) == {HOSTILE: [HOSTILE]}
    assert not terminal.CONTROL.search(line)
    assert line.count("\n") == 1


def test_names_that_are_no_text_are_written_as_they_are() -> None:
    code = "from microgpt.cli import main; from microgpt.terminal import output; main([]); output('a\\udcffb')"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout.endswith(b"a\xffb\n"), done
