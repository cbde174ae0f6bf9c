"""microgpt data list: every set that can be trained on, with the whole path of what is here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from microgpt import __version__
from microgpt.cli import main
from microgpt.commands.data import crawler
from microgpt.data import datasets


def test_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ("a-folder-of-data-" * 8)
    folder.mkdir()
    here = datasets.Dataset("set.txt", (), datasets.sha256(Path(__file__)), 1, "a set", "none")
    monkeypatch.setitem(datasets.DATASETS, "set", here)
    monkeypatch.setenv("MICROGPT_DATA_DIR", str(folder))
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    shutil.copy(__file__, folder / "set.txt")
    assert main(["data", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == ["names", "alice", "shakespeare", "enneads", "set", "pydocs"]
    assert rows["set"]["path"] == str(folder / "set.txt")
    assert rows["alice"]["path"] is None
    assert rows["pydocs"]["bytes"] > 100_000
    assert main(["data", "list"]) == 0
    assert "…" not in capsys.readouterr().out


def test_pages_are_asked_for_by_name_and_version() -> None:
    assert crawler([]).fetcher.user_agent.startswith(f"microgpt/{__version__} (")
