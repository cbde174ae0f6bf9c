"""zstd files, whole or refused.

The library ends in silence where a file is cut short, and after the first of several frames. So a frame with a known
text is read after the file, across frames: where that text does not come last, the file is not whole.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import zstandard

from microgpt import files

END = b"\0end of the zstd file"


class ZstdFile(io.RawIOBase):
    """The decompressed bytes of a file. `read` raises EOFError where it is cut short, zstandard.ZstdError."""

    def __init__(self, path: Path) -> None:
        self.file = files.open_plain(path)
        ended: Any = _Ended(self.file)
        self.reader: Any = zstandard.ZstdDecompressor().stream_reader(ended, read_across_frames=True)
        self.held = b""  # the last bytes that were decompressed, which may be END

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, none at the end."""
        data = self.held
        while len(data) <= len(END):
            more = self.reader.read(size)
            if not more:
                if data != END:
                    raise EOFError("the file is cut short")
                return b""
            data += more
        self.held = data[-len(END) :]
        return data[: -len(END)]

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


class _Ended(io.RawIOBase):
    """A file, followed by the frame that holds END."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.parts: list[Any] = [file, io.BytesIO(zstandard.compress(END))]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        done, view = 0, memoryview(buffer)
        while self.parts and done < len(view):  # all at once: the library forgets a frame's header that comes in parts
            count = self.parts[0].readinto(view[done:])
            done += count
            if not count:
                self.parts.pop(0)
        return done
