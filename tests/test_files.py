"""What a failed write tells: the file that was asked for, the reason, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from microgpt import files
from microgpt.errors import MachineError


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
