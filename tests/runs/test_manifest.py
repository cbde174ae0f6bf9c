"""The manifest: written with the files that it describes, and compared with each of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from microgpt import files
from microgpt.errors import CheckpointError
from microgpt.runs import manifest
from microgpt.runs.manifest import MANIFEST


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files.write_folder(tmp_path / "model", manifest.seal({"a.json": b"{}", "trainer/b.bin": bytes(9)}, 7))
    return tmp_path / "model"


def test_sealed_files_are_read_back(folder: Path) -> None:
    step, entries = manifest.read(folder, 7)
    assert step == 7
    assert {name: manifest.read_file(folder, name, entries) for name in entries} == {
        "a.json": b"{}",
        "trainer/b.bin": bytes(9),
    }


@pytest.mark.parametrize(
    ("change", "code"),
    [(b"{}" * 2, "E_HASH"), (b"[]", "E_HASH"), (None, "E_CHECKPOINT")],
    ids=["another size", "other bytes", "missing"],
)
def test_a_changed_file_is_refused(folder: Path, change: bytes | None, code: str) -> None:
    _, entries = manifest.read(folder)
    (folder / "a.json").unlink()
    if change is not None:
        (folder / "a.json").write_bytes(change)
    with pytest.raises(CheckpointError, match=r"a\.json") as caught:
        manifest.read_file(folder, "a.json", entries)
    assert caught.value.code == code


def test_a_file_without_an_entry_is_refused(folder: Path) -> None:
    (folder / "c.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="not in the manifest"):
        manifest.read_file(folder, "c.json", manifest.read(folder)[1])
    assert manifest.read_file(folder, "c.json", None) == b"{}"


def test_a_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(CheckpointError, match="not a plain file"):
        manifest.read_file(folder, "pipe", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "this version reads format 1"),
        ({"files": {"a\0.json": {"size": 2, "sha256": ""}}}, r"'a\\x00.json' is no name of a file"),
        ({"files": []}, "not a manifest"),
        ({"step": None}, "not a number of steps"),
        ({"step": True}, "not a number of steps"),
        ({"step": -1}, "not a number of steps"),
        ({"step": 8}, "is not the folder's"),
        ({"files": {"a.json": {"size": 2}}}, "no size and sha256"),
        ({"files": {"../a": {"size": 2, "sha256": ""}}}, "outside the folder"),
        ({"files": {"/a": {"size": 2, "sha256": ""}}}, "outside the folder"),
    ],
    ids=str,
)
def test_a_hostile_manifest_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    whole = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(whole | change))
    with pytest.raises(CheckpointError, match=said):
        manifest.read(folder, 7)
