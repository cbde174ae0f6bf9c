"""Checkpoints: found by number, rotated, never written twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from microgpt.errors import CheckpointError
from microgpt.runs import checkpoint
from microgpt.runs.manifest import MANIFEST


@pytest.fixture
def steps(names_run: Path, tmp_path: Path) -> Path:
    """A folder with checkpoints 5, 10 and 100000005 of one model."""
    saved = checkpoint.read(names_run)
    for step in (100_000_005, 5, 10):
        checkpoint.write(tmp_path, saved.config, saved.tokenizer, saved.tensors(), saved.state | {"step": step})
    return tmp_path


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoint.list_steps(folder)]


def test_complete_checkpoints_are_listed_by_number(steps: Path) -> None:
    (steps / "step-7").mkdir()
    (steps / "step-00000007").mkdir()
    assert names(steps) == ["step-00000005", "step-00000010", "step-100000005"]
    assert names(steps / "missing") == []


@pytest.mark.parametrize(("best", "kept"), [(None, 1), (5, 2), (100_000_005, 1)])
def test_rotation_keeps_the_newest_and_the_best(steps: Path, best: int | None, kept: int) -> None:
    checkpoint.rotate(steps, 1, best)
    assert len(names(steps)) == kept
    assert names(steps)[-1] == "step-100000005"
    assert best is None or f"step-{best:08d}" in names(steps)


def test_a_checkpoint_is_never_changed_but_one_without_a_manifest_is_written_again(steps: Path) -> None:
    saved = checkpoint.read(steps / "step-00000005")
    before = {path: path.stat().st_mtime_ns for path in saved.path.rglob("*")}
    given = steps, saved.config, saved.tokenizer, saved.tensors(), saved.state
    assert checkpoint.write(*given) == saved.path
    assert before == {path: path.stat().st_mtime_ns for path in saved.path.rglob("*")}
    (saved.path / MANIFEST).unlink()
    assert checkpoint.write(*given) == saved.path
    assert checkpoint.read(saved.path).state == saved.state


def test_a_path_is_a_model_folder_or_a_run(steps: Path, names_run: Path, tmp_path: Path) -> None:
    newest = checkpoint.list_steps(names_run / "checkpoints")[-1]
    assert checkpoint.find(names_run) == newest == checkpoint.find(newest)
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoint.find(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="neither a model folder"):
        checkpoint.find(steps)
    shutil.copytree(newest, tmp_path / "copy")
    (tmp_path / "copy" / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="the checkpoint is not complete"):
        checkpoint.read(tmp_path / "copy")
