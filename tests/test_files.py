"""What a failed write tells (the file that was asked for, the reason, what to do), and which names writers take."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import microgpt
from microgpt import files
from microgpt.errors import MachineError, UsageError

PACKAGE = Path(microgpt.__file__).parent


@pytest.mark.parametrize("name", ["none/a.json", "none/a-12.json", "none/a-12"])
def test_the_file_asked_for_is_named(tmp_path: Path, name: str) -> None:
    for write in (lambda path: files.write_atomic(path, b""), lambda path: files.new_folder(path).__enter__()):
        path = tmp_path / name
        with pytest.raises(MachineError) as error, files.disk("be written", path):
            write(path)
        assert str(error.value) == f"{path}: cannot be written (No such file or directory)"


@pytest.mark.parametrize(("place", "flag"), [("cache/data/x", "MICROGPT_CACHE_DIR"), ("runs/x", "--out")])
def test_the_advice_is_of_the_folder_in_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, flag: str
) -> None:
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(MachineError, match=f"; choose a folder that you may write to with {flag}$"):  # noqa: SIM117
        with files.disk("be written", tmp_path / place):
            raise PermissionError(13, "Permission denied", str(tmp_path / place))


# Names of writers: each has one of its own, and a name that somebody else has is taken from nobody.


def test_no_two_writers_share_a_temporary_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: files.temporary_path(path), range(1000)))
    code = f"from microgpt.files import *; print(*(temporary_path(Path({str(path)!r})) for _ in range(100)))"
    for _ in range(2):
        names += map(Path, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert len(set(names)) == 1200
    assert {name.parent for name in names} == {tmp_path}


def temporary_names(tree: ast.AST) -> list[int]:
    """The lines of a module that make a temporary name by themselves."""
    found = []
    for node in ast.walk(tree):
        named = isinstance(node, ast.Name | ast.Attribute) and "TEMPORARY" in (
            getattr(node, "id", ""),
            getattr(node, "attr", ""),
        )
        spelled = isinstance(node, ast.Constant) and isinstance(node.value, str) and files.TEMPORARY in node.value
        pid = isinstance(node, ast.JoinedStr) and "getpid" in ast.dump(node)
        maker = isinstance(node, ast.Attribute) and node.attr in ("mktemp", "mkstemp", "NamedTemporaryFile")
        if named or spelled or pid or maker:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_function_makes_all_temporary_names(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path == PACKAGE / "files.py":
        makers = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and temporary_names(node)}
        assert makers == {"temporary_path", "asked_for", "sweep"}  # makes one, reads one, looks for them
    else:
        assert temporary_names(tree) == []


@pytest.mark.parametrize(
    "code", ["f'{files.TEMPORARY}{x}'", "'.microgpt-tmp-a'", "f'{name}-{os.getpid()}'", "tempfile.mkstemp()"]
)
def test_the_test_sees_temporary_names(code: str) -> None:
    assert temporary_names(ast.parse(code))


def test_a_new_file_takes_no_name_from_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.json"
    files.write_atomic(path, b"first", replace=False)

    def unlinkable(*args: object) -> None:
        raise OSError(errno.EPERM, "a file system without links")

    for patched in (False, True):
        if patched:
            monkeypatch.setattr(os, "link", unlinkable)
        with pytest.raises(UsageError, match=r"model\.json: exists already; name another") as error:  # noqa: SIM117
            with files.disk("be written", path):
                files.write_atomic(path, b"second", replace=False)
        assert error.value.code == "E_EXISTS"
        assert path.read_bytes() == b"first"
        assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    files.write_atomic(path, b"third", replace=False)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"third"]
    files.write_atomic(path, b"fourth")
    assert path.read_bytes() == b"fourth"


def test_a_new_folder_takes_no_name_from_anybody(tmp_path: Path) -> None:
    for there in ("folder", "file"):
        final = tmp_path / there
        with (  # noqa: PT012
            pytest.raises(UsageError, match=f"{there}: exists already") as error,
            files.disk("be written", final),
            files.new_folder(final) as temporary,
        ):
            files.write_new(temporary / "a", b"second")
            if there == "folder":
                files.write_folder(final, {"a": b"first"})  # somebody is faster
            else:
                final.write_bytes(b"first")
        assert error.value.code == "E_EXISTS"
        assert (final / "a" if there == "folder" else final).read_bytes() == b"first"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("there", ["file", "folder"])
def test_of_many_writers_of_one_name_one_wins(tmp_path: Path, there: str) -> None:
    final = tmp_path / "x"

    def write(number: int) -> int | None:
        data = bytes([number]) * 1000
        try:
            if there == "file":
                files.write_atomic(final, data, replace=False)
            else:
                files.write_folder(final, {"a": data})
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(write, range(32)) if number is not None]
    (winner,) = winners
    assert (final / "a" if there == "folder" else final).read_bytes() == bytes([winner]) * 1000
    assert list(tmp_path.iterdir()) == [final]
