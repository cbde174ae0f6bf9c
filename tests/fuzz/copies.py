"""A copy of the start folder that is used again: after a case only that is restored which the case changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

WHOLE = 64 << 20  # bytes; larger files are compared by their size alone
TICK = 50_000_000  # ns; a file that was written within this time may change without a new time of change
Entry = tuple[int, int, str]  # kind, size and hash
Sign = tuple[int, ...]  # what the system says of a file without reading it


class Copy:
    """The folder `path`, made like `start`."""

    def __init__(self, start: Path, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(start, path)
        self.start, self.path = start, path
        self.first = {name: _entry(path / name) for name, _ in _look(path)}
        self._trusted: dict[str, Sign] = {}

    def state(self) -> dict[str, Entry]:
        """The kind, size and hash of everything in the folder."""
        found, now = {}, time.time_ns()
        for name, sign in _look(self.path):
            if self._trusted.get(name) == sign:
                found[name] = self.first[name]
                continue
            found[name] = _entry(self.path / name)
            if name in self.first and found[name] == self.first[name] and now - sign[3] > TICK:
                self._trusted[name] = sign
        return found

    def restore(self, state: dict[str, Entry]) -> None:
        """Make the folder of this state like the start again."""
        changed = {name for name in {*state, *self.first} if state.get(name) != self.first.get(name)}
        for name in sorted(changed & state.keys(), key=len):
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name in sorted(self.first):
            source, target = self.start / name, self.path / name
            if os.path.lexists(target):
                continue
            if source.is_dir():
                target.mkdir()
            else:
                shutil.copy2(source, target, follow_symlinks=False)
                self._trusted.pop(name, None)


def _look(folder: Path, above: str = "") -> Iterator[tuple[str, Sign]]:
    """Everything in a folder, with its mode, number, size, and times of change and of writing."""
    with os.scandir(folder) as entries:
        for entry in entries:
            kind, name = entry.stat(follow_symlinks=False), above + entry.name
            is_folder = stat.S_ISDIR(kind.st_mode)
            times = (0, 0, 0) if is_folder else (kind.st_size, kind.st_ctime_ns, kind.st_mtime_ns)
            yield name, (kind.st_mode, kind.st_ino, times[0], times[1], times[2])
            if is_folder:
                yield from _look(folder / entry.name, f"{name}/")


def _entry(path: Path) -> Entry:
    kind = path.lstat()
    read = stat.S_ISREG(kind.st_mode) and kind.st_size <= WHOLE and kind.st_mode & stat.S_IRUSR
    content = hashlib.blake2b(path.read_bytes()).hexdigest() if read else ""
    return kind.st_mode, 0 if stat.S_ISDIR(kind.st_mode) else kind.st_size, content
