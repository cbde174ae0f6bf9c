"""The short form: the first 500 cases of the long one (`make fuzz`), and that every kind of fault is seen."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz import cases, child, folder, verdict

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and special files")
CASES, PARTS = 500, 5


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder.make(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("part", range(PARTS))
def test_no_flag_or_file_brings_a_command_down(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(verdict, "PATIENCE", 0.3)
    failed = []
    for number, case in itertools.islice(enumerate(cases.cases(start, seed=1)), part, CASES, PARTS):
        found, ended = verdict.attempt(case, start, tmp_path / "attempt")
        if found and not verdict.known(case, found):
            failed.append(f"{number}: {', '.join(found)}: {case}\n{ended.err[-1000:]}")
    assert not failed, "\n".join(failed)


def test_every_command_and_flag_is_among_them() -> None:
    for command, _ in cases.commands():
        assert {"sample": "generate"}.get(command, command) in cases.BASE, f"add {command} to tests/fuzz/cases.py"
    tried = {name for _, names, _ in cases.flags() for name in names}
    assert {"--n-embd", "--lr", "--top-k", "--lora-rank", "--to", "--page-seconds", "--vocab-size", "--prompt"} <= tried


def test_an_unharmed_folder_is_read_by_all(start: Path, tmp_path: Path) -> None:
    """Else the damages would show nothing."""
    seen = set()
    for path in sorted(start.rglob("*")):
        name = str(path.relative_to(start))
        for words in cases.readers(name) if path.is_file() and not name.startswith("cache/") else []:
            if tuple(words) not in seen:
                seen.add(tuple(words))
                found, ended = verdict.attempt(cases.Case(tuple(words)), start, tmp_path / "attempt")
                assert not found, (words, found, ended.err)


def _traceback() -> int:
    raise RuntimeError("on purpose")


def _deaf() -> int:
    while True:
        time.sleep(1)


def _forgets() -> int:
    Path("names.txt").unlink()
    return 2


def _takes_much() -> int:
    try:
        return len(bytearray(2 * child.MEMORY)) and 0
    except MemoryError:
        print("microgpt: out of memory", file=sys.stderr)
        return 5


def _prints_no_json() -> int:
    print('{"loss": NaN}')
    return 0


FAULTY = {
    _traceback: "Traceback",
    _deaf: "had not ended",
    _forgets: "names.txt was changed",
    _takes_much: "memory",
    _prints_no_json: "no JSON",
    lambda: 70: "status 70",
    lambda: print("microgpt: a\nmicrogpt: b", file=sys.stderr) or 2: "2 lines of error",
    lambda: print("microgpt: \x1b[31m", file=sys.stderr) or 2: "'\\x1b' on stderr",
    os.abort: "status -6",
}


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "DEADLINE", 2.0)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("faulty", FAULTY, ids=list(FAULTY.values()))
def test_every_kind_of_fault_is_seen(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faulty: object
) -> None:
    monkeypatch.setattr(child, "main", lambda words: faulty())  # type: ignore[operator]
    case = cases.Case(("info", "run", "--json"), cases.Damage("names.txt", "none", lambda path: None))
    found, _ = verdict.attempt(case, start, tmp_path / "attempt")
    assert any(FAULTY[faulty] in fault for fault in found), found  # type: ignore[index]
