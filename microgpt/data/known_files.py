"""The SHA-256 of large files, remembered in the user's cache by their sizes and times: hashing 10 GB takes 10 s.

A file that is younger than a moment is not remembered, for it could still change without a later time.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.data.datasets import cache_folder
from microgpt.errors import MicrogptError

MOMENT = 2.0  # seconds; file systems' clocks are coarser than ours

Stamp = list[int]


def stamp(path: Path) -> Stamp | None:
    """Size, times and place of a file, which no ordinary change leaves alike; None if it cannot be read."""
    with suppress(OSError):
        found = os.stat(path)
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
    return None


def remembered(path: Path) -> str | None:
    """The SHA-256 in hexadecimal that the file had when its stamp was the same; None if there is none."""
    with suppress(MicrogptError, OSError, ValueError, TypeError, KeyError):
        known: dict[str, Any] = files.read_json(_place(path))
        if known["stamp"] == stamp(path) and len(bytes.fromhex(known["sha256"])) == 32:
            return str(known["sha256"])
    return None


def remember(path: Path, sha256: str, before: Stamp) -> None:
    """Keep the SHA-256 of a file that had the stamp `before` when its reading began, if it has kept it and is old."""
    youngest = time.time() - MOMENT
    if stamp(path) == before and max(before[1:3]) < youngest * 1e9:
        with suppress(OSError):  # the next start hashes it again
            place = _place(path)
            files.make_folders(place.parent)
            files.write_atomic(place, files.to_json({"path": str(path), "stamp": before, "sha256": sha256}))


def _place(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return cache_folder() / "hashes" / f"{name}.json"
