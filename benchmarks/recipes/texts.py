"""The texts of the search, those that it never sees, and mixtures, cut to a length.

A name is that of a file in a folder of MICROGPT_DATA_DIR, or of text that every machine has: `pydocs` (Python's
documentation), `pages` (this project's), `stdlib` and `numpy` (source). `alice.txt+enneads.txt` is a mixture of the
beginnings of both. `chat_end.jsonl` is the end of chat_oasst1.jsonl, of which short cells see the beginning alone.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT
from microgpt.data.datasets import data_folders, pydocs
from microgpt.errors import DataError

PROSE = "alice.txt+enneads.txt+tinyshakespeare.txt"
SEARCHED = {  # kilobytes that the search takes of each; 0: all
    "alice.txt": (10, 50, 0),
    "tinyshakespeare.txt": (10, 50, 150, 0),
    "enneads.txt": (10, 50, 150, 0),
    "pydocs": (10, 50, 150, 0),
    PROSE: (10, 50, 150, 1000),
    f"{PROSE}+stdlib": (10_000,),
    "chat_small.jsonl": (0,),
    "chat_oasst1.jsonl": (300, 0),
    "names.txt": (0,),
}
UNSEEN = {"pages": (50, 0), "numpy": (50, 150, 1000, 0), "chat_end.jsonl": (60, 300)}


def text(name: str, kilobytes: int, folder: Path) -> Path:
    """A text as a file: the one of that name, or one in `folder` of about so many kilobytes. Raises DataError."""
    names = name.split("+")
    path = next((found for place in data_folders() if (found := place / name).is_file()), Path(name))
    if not kilobytes and path.is_file():
        return path
    parts, left = sorted(map(_whole, names), key=len), 1000 * kilobytes or 1 << 62
    for i, part in enumerate(parts):  # an equal share each; what short ones leave goes to the others
        share = left // (len(parts) - i)
        parts[i] = part if len(part) <= share else part[:share].rpartition(b"\n")[0]
        left -= len(parts[i])
    short = "+".join(Path(each).name for each in names)
    made = folder / (short if short.endswith((".txt", ".jsonl")) else f"{short}.txt")
    made.write_bytes(b"\n\n".join(parts))
    return made


def _whole(name: str) -> bytes:
    if name == "pydocs":
        return pydocs().encode()
    if name == "chat_end.jsonl":
        return _whole("chat_oasst1.jsonl")[-600_000:].partition(b"\n")[2]
    if name == "pages":
        return _joined([*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"])
    if name in ("stdlib", "numpy"):
        root = Path(sysconfig.get_path("stdlib")) if name == "stdlib" else Path(np.__file__).parent
        left_out = {"test", "tests", "idlelib", "site-packages"}
        return _joined(path for path in sorted(root.rglob("*.py")) if not left_out & set(path.parts[len(root.parts) :]))
    path = next((found for place in data_folders() if (found := place / name).is_file()), Path(name))
    if not path.is_file():
        raise DataError(f"{name}: no such file, and not in a folder of MICROGPT_DATA_DIR")
    return path.read_bytes()


def _joined(paths: Iterable[Path]) -> bytes:
    return b"\n\n".join(path.read_bytes().strip() for path in paths)
