"""The folder of a run: its name, its metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from microgpt.errors import CheckpointError, UsageError
from microgpt.runs.folder import RunFolder, last_folder, new_folder


def test_folders_are_numbered_where_the_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_folder("a") == last_folder("a") == Path("runs/a")
    for name in ("a", "a-2"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "run.toml").touch()
    assert new_folder("a") == Path("runs/a-3")
    assert last_folder("a") == Path("runs/a-2")


def test_a_run_is_required_or_in_the_way(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.require(run=False)
    folder.require_free()
    assert not folder.path.exists()
    with pytest.raises(CheckpointError, match="no run to resume"):
        folder.require(run=True)
    folder.path.mkdir()
    folder.metrics_file.touch()
    with pytest.raises(UsageError, match="holds a run already"):
        folder.require(run=False)


@pytest.mark.parametrize(
    ("step", "evaluated", "kept"), [(2, 2, 4), (2, 1, 3), (1, 1, 2), (1, 0, 1), (0, 0, 0), (9, 9, 4)], ids=str
)
def test_metrics_are_rewound(tmp_path: Path, step: int, evaluated: int, kept: int) -> None:
    folder = RunFolder(tmp_path)
    lines = ['{"step": 1, "loss": 3.0}\n', '{"step": 1, "val_loss": 2.9}\n']
    lines += ['{"step": 2, "loss": 2.0}\n', '{"step": 2, "val_loss": 2.5}\n', '{"step": 3, "lo']
    folder.metrics_file.write_text("".join(lines))
    folder.rewind(step, evaluated)
    assert folder.metrics_file.read_text() == "".join(lines[:kept])
    assert len(list(folder.metrics())) == kept
