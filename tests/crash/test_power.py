"""The power fails at any moment of a save: every state that a disk may then hold is whole, and none is older than
what was said to be saved. That each fsync is needed shows when it is left out."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt import files
from microgpt.cli import main
from microgpt.errors import CheckpointError
from microgpt.runs import checkpoint
from microgpt.training import trainer
from tests.crash.power import Disk, Recorder, Tree
from tests.crash.test_kill import one_save

Copy = Callable[[], Path]


class Recorded:
    """The trace of a save, and a disk as it was before."""

    def __init__(self, out: Path, before: Path, recorder: Recorder) -> None:
        self.out, self.before, self.trace = out, before, recorder.trace
        names = [call[1][0] if call[0] == "mark" else "" for call in recorder.trace]
        self.begin, self.saved = names.index("begin"), names.index("saved")
        self.seen: dict[frozenset[tuple[str, bytes]], str] = {}

    def problems(self, leave_out: int = -1) -> tuple[int, list[str]]:
        """States looked at, and what is wrong with them; `leave_out` is a call that never reaches the disk."""
        disk, rng, count, found = Disk(self.out), random.Random(0), 0, []
        disk.top = disk._load(self.before)
        for i, call in enumerate(self.trace):
            if i != leave_out:
                disk.play(call)
            if i < self.begin or call[0] in ("open", "close"):
                continue  # the disk is as before
            for tree in disk.crashes(rng):
                count += 1
                if problem := self.judge(tree, 25 if i >= self.saved else 20):
                    found.append(f"after call {i} {call[0]}: {problem}")
            if found and leave_out >= 0:
                break
        return count, found

    def judge(self, tree: Tree, at_least: int) -> str | None:
        key = frozenset(tree.items())
        if key not in self.seen:
            self.seen[key] = self._open(tree)
        step = self.seen[key]
        if not step.isdigit():
            return step
        return None if int(step) >= at_least else f"step {step} is the newest, but {at_least} was saved"

    def _open(self, tree: Tree) -> str:
        """The newest step's number, or what is wrong."""
        place = self.out.with_name("crashed")
        shutil.rmtree(place, ignore_errors=True)
        for name, data in tree.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        try:
            steps = [checkpoint.read(path) for path in checkpoint.list_steps(place / "checkpoints")]
            for step in steps:
                step.tensors()
        except CheckpointError as error:
            return str(error)
        lines = tree.get("metrics.jsonl", b"").split(b"\n")[:-1]
        logged = [json.loads(line)["step"] for line in lines if b"val_loss" not in line]
        if not steps or logged[: steps[-1].step] != list(range(1, steps[-1].step + 1)):
            return f"metrics of {len(logged)} steps are left"
        return str(steps[-1].step)


@pytest.fixture
def recorded(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    before, out, recorder = copy(), copy(), Recorder()
    save, write = trainer.Trainer.save, checkpoint.write

    def marked_save(self: trainer.Trainer) -> None:
        recorder.mark("begin")
        save(self)

    def marked_write(*args: object) -> Path:
        path = write(*args)  # type: ignore[arg-type]
        recorder.mark("saved")
        return path

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "save", marked_save)
        patch.setattr(checkpoint, "write", marked_write)
        patch.setattr(files, "os", recorder)
        patch.setattr(shutil, "os", recorder)
        assert main([*one_save(out), "--keep", "1"]) == 0
    return Recorded(out, before, recorder)


def test_every_state_that_a_power_failure_may_leave_is_whole(recorded: Recorded) -> None:
    count, found = recorded.problems()
    assert found == []
    assert count > 10_000
    print(f"{count} states, {len(recorded.seen)} of them different to a reader")
    assert len(recorded.seen) > 3


def test_every_fsync_and_rename_is_needed(recorded: Recorded) -> None:
    needed = [i for i, call in enumerate(recorded.trace) if i > recorded.begin and call[0] == "fsync"]
    assert len(needed) >= 13
    for i in needed:
        assert recorded.problems(leave_out=i)[1], f"nobody misses call {i}, {recorded.trace[i]}"
