"""kill -9 at any moment, and a disk that fails at any call: the old or the new is there, and the end is the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.runs import checkpoint
from tests.crash.conftest import Reference
from tests.crash.faults import ERRNOS, Shim, die, die_halfway, fail, install, installed, short
from tests.crash.runs import end_state, finish, go_on, kill_after, new, spawn, wait

Copy = Callable[[], Path]
Call = tuple[str, tuple[Any, ...]]
KILLED = -signal.SIGKILL


@pytest.mark.parametrize("n", range(20))
def test_random_kills_end_in_the_same_run(reference: Reference, tmp_path: Path, n: int) -> None:
    rng, out = random.Random(n), tmp_path / "run"
    start = new(reference.data, out)
    for _ in range(1 + n % 3):  # some runs are killed again while they go on
        kill_after(spawn(go_on(start, out), tmp_path / "log"), rng.uniform(0, reference.seconds))
    assert finish(start, out) == reference.end


def test_the_newest_and_the_best_are_kept(reference: Reference) -> None:
    kept = [path.name for path in checkpoint.list_steps(reference.out / "checkpoints")]
    best = f"step-{reference.end['state']['best']['step']:08d}"
    assert kept == sorted({best, "step-00000035", "step-00000040"})


def test_random_kills_of_the_scalar_engine(tmp_path: Path, reference: Reference) -> None:
    flags = {"engine": "scalar", "steps": 6, "checkpoint_every": 1, "eval_every": 0, "batch_size": 1}
    assert main(new(reference.data, tmp_path / "whole", **flags)) == 0
    end = end_state(tmp_path / "whole")
    for n in range(3):
        out = tmp_path / f"run{n}"
        start = new(reference.data, out, **flags)
        kill_after(spawn(start, tmp_path / "log"), random.Random(n).uniform(0, 0.15))
        assert finish(start, out) == end


def one_save(out: Path) -> list[str]:
    """Go on from step 20 to 25: a lock, a rewind, some metrics, a save and a rotation."""
    return [*go_on([], out), "--stop-at", "25"]


@pytest.fixture
def saved(copy: Copy) -> dict[str, Any]:
    """What an undisturbed save leaves."""
    out = copy()
    assert main(one_save(out)) == 0
    return end_state(out)


def calls_of_a_save(copy: Copy) -> list[Call]:
    with installed(Shim()) as shim:
        assert main(one_save(copy())) == 0
    names = [name for name, _ in shim.trace]
    assert {"open", "write", "fsync", "close", "replace", "rename", "mkdir", "unlink", "rmdir"} <= set(names)
    assert names.count("fsync") > 15
    return shim.trace


def changes(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call changes the folder that a process which is killed leaves behind."""
    return name not in ("fsync", "close") and (name != "open" or args[1] != os.O_RDONLY)


PARTS = 3


@pytest.mark.parametrize("part", range(PARTS))
def test_kill_at_every_call_of_a_save(
    copy: Copy, saved: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest, part: int
) -> None:
    """In the short form not behind a call that changes nothing, which would be the kill before it once more."""
    trace = calls_of_a_save(copy)
    every = request.config.getoption("--long")
    for at in [at for at in range(len(trace)) if every or at == 0 or changes(*trace[at - 1])][part::PARTS]:
        for act in (die, die_halfway) if trace[at][0] == "write" else (die,):
            out = copy()

            def arm(at: int = at, act: Callable[..., None] = act) -> None:
                install(Shim(at, act))

            assert wait(spawn(one_save(out), tmp_path / "log", arm)) == KILLED
            found = checkpoint.read(out, "last")  # whole: every hash is compared
            found.tensors()
            assert found.step in (20, 25)
            assert main(one_save(out)) == 0
            assert end_state(out) == saved
            shutil.rmtree(out)


def check_fault(out: Path, at: int, act: Callable[..., object], err: pytest.CaptureFixture[str]) -> None:
    err.readouterr()
    with installed(Shim(at, act)):
        status = main(one_save(out))
    said = err.readouterr().err.splitlines()
    assert status in (0, 5), said  # 0: the fault met the removal of litter, which can wait
    if status == 5:
        assert [line for line in said if line.startswith("microgpt: ")] == [said[-1]]
        assert "Traceback" not in "".join(said)
    found = checkpoint.read(out, "last")
    found.tensors()
    assert found.step in (20, 25)


@pytest.mark.parametrize("code", [*ERRNOS, "short"])
def test_a_fault_at_every_call_of_a_save(
    copy: Copy, saved: dict[str, Any], capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, code: str
) -> None:
    act = short if code == "short" else fail(code)
    stride = 1 if request.config.getoption("--long") else len(ERRNOS) + 1
    first = [*ERRNOS, "short"].index(code) % stride
    for at in range(first, len(calls_of_a_save(copy)), stride):  # together the errors meet every call
        out = copy()
        check_fault(out, at, act, capsys)
        assert main(one_save(out)) == 0
        assert end_state(out) == saved
        shutil.rmtree(out)


def test_a_full_disk_says_what_to_do(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    with installed(Shim()) as shim:
        assert main(one_save(copy())) == 0
    largest = max((args for name, args in shim.trace if name == "write"), key=lambda args: len(args[1]))
    at = next(i for i, (name, args) in enumerate(shim.trace) if name == "write" and args is largest)
    with installed(Shim(at, fail("ENOSPC"))):
        assert main(one_save(copy())) == 5
    assert "No space left on device); free some space and continue with --resume" in capsys.readouterr().err


def test_a_failed_fsync_is_not_tried_again(copy: Copy) -> None:
    with installed(Shim()) as shim:
        assert main(one_save(copy())) == 0
    for at in [i for i, (name, _) in enumerate(shim.trace) if name == "fsync"]:
        with installed(Shim(at, fail("EIO"))) as broken:
            assert main(one_save(copy())) == 5
        later = [name for name, _ in broken.trace[at + 1 :]]
        assert "fsync" not in later
        assert "rename" not in later
        assert "replace" not in later
