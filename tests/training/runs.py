"""A small run, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microgpt.config import Config


def small(folder: Path, **run: Any) -> Config:
    (folder / "names.txt").write_text("em\nemma\nolivia\nava\nmia\n" * 5, encoding="utf-8")
    return Config.from_dict(
        {"data": {"path": str(folder / "names.txt")}, "run": {"steps": 20, "samples": 0, "dtype": "float64", **run}}
    )
