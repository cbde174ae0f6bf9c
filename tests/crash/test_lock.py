"""One trainer a folder: the second is refused with the first one's name, and a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.runs.folder import RunFolder
from microgpt.training import prepare, train, trainer
from tests.crash.conftest import Reference
from tests.crash.runs import end_state, finish, go_on, new, spawn, wait

Copy = Callable[[], Path]


def linger() -> None:
    """Hold the lock for long: a trainer in its first block."""
    trainer.Trainer.train_block = lambda self, target: time.sleep(60)  # type: ignore[method-assign]


def test_a_second_trainer_is_refused(
    reference: Reference, copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy()
    first = spawn(go_on([], out), tmp_path / "log", linger)
    try:
        while "resumed" not in (tmp_path / "log").read_text():
            time.sleep(0.01)
        capsys.readouterr()
        before = (out / "metrics.jsonl").read_bytes()
        status, said = main(go_on([], out)), capsys.readouterr().err.splitlines()
        read = main(["info", str(out)])
    finally:
        os.kill(first, signal.SIGKILL)
        wait(first)
    assert status == 5
    assert f"another trainer is at work in it (process {first} on {socket.gethostname()} since 20" in said[-1]
    assert not any(line.startswith("data ") for line in said), "refused before the data was read"
    assert read == 0, "readers are welcome"
    assert (out / "metrics.jsonl").read_bytes() == before
    assert finish([], out) == reference.end, "the lock died with its holder"


@pytest.mark.parametrize("n", range(20))
def test_races(reference: Reference, tmp_path: Path, n: int) -> None:
    out = tmp_path / "run"
    both = [spawn(new(reference.data, out), tmp_path / f"log{i}") for i in range(2)]
    ends = sorted(wait(pid) for pid in both)
    assert ends in ([0, 2], [0, 5])  # 2: the other one had finished, 5: it was at work
    assert end_state(out) == reference.end


def test_a_run_that_came_and_went_while_the_data_was_read(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "run", train.prepare

    def slow(*given: Any, **options: Any) -> prepare.RunSetup:
        monkeypatch.setattr(train, "prepare", real)
        assert main(new(reference.data, out)) == 0
        return real(*given, **options)

    monkeypatch.setattr(train, "prepare", slow)
    assert main(new(reference.data, out)) == 2
    assert end_state(out) == reference.end


def test_a_damaged_owner_file_does_not_hide_the_refusal(reference: Reference, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.owner_file.write_text("{")
        assert wait(spawn(new(reference.data, folder.path), tmp_path / "log")) == 5
        assert "process ? on ? since ?" in (tmp_path / "log").read_text()
