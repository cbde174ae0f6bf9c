"""Parts of a text for several machines: files, and ranges of bytes of long ones, cut at the ends of lines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, cast

from microgpt import files
from microgpt.data.sources import COMPRESSED, PARQUET, PIECE, Source


def part_of(sources: list[Source], part: int, parts: int, *, by_lines: bool) -> list[Source]:
    """Part `part` of `parts`, counted from 1: together they hold each document once, in order.

    A document belongs to the part in whose share of the bytes it begins. Files in which a document may hold a line
    end (not `by_lines`), compressed files and Parquet are not cut: they belong where they begin.
    """
    size, at, found = sum(source.size for source in sources), 0, list[Source]()
    low, high = size * (part - 1) // parts, size * part // parts
    for source in sources:
        begin, end = max(low - at, 0), min(high - at, source.size)
        cut = by_lines and source.path and source.path.suffix not in (*COMPRESSED, PARQUET)
        if not cut or (begin == 0 and end == source.size):
            if low <= at < high:
                found.append(source)
        elif begin < end:
            found.append(_lines(source, begin, end))
        at += source.size
    return found


def _lines(source: Source, begin: int, end: int) -> Source:
    """The lines of a file that begin in a range of its bytes."""
    path = cast(Path, source.path)
    return Source(f"bytes {begin:,}-{end:,} of {source.name}", lambda: _open(path, begin, end), end - begin, path)


def _open(path: Path, begin: int, end: int) -> IO[bytes]:
    return cast("IO[bytes]", Lines(path, begin, end))


class Lines(io.RawIOBase):
    """The bytes of the lines of a file that begin in a range."""

    def __init__(self, path: Path, begin: int, end: int) -> None:
        self.file = files.open_plain(path)
        self.end = self._next_line(end)
        self.file.seek(self._next_line(begin))

    def _next_line(self, at: int) -> int:
        """Where the first line begins that does not begin before `at`."""
        self.file.seek(max(0, at - 1))
        while at and (data := self.file.readline(PIECE)):
            if data.endswith(b"\n"):
                break
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.end - self.file.tell())
        return self.file.read(left if size < 0 else min(size, left))

    def close(self) -> None:
        self.file.close()
        super().close()
