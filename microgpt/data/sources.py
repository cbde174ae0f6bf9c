"""Files, folders, globs, compressed files and standard input → text.

Text comes in pieces of bounded size, with line ends made \\n and a byte order mark dropped, so that a file may
be larger than memory. What is not text shows here, with its file, line and column.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import io
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from microgpt import files
from microgpt.data.datasets import cache_folder
from microgpt.data.gutenberg import without_marks
from microgpt.data.known_files import remember, remembered, stamp
from microgpt.errors import DataError, MachineError, install

PIECE = 1 << 20  # bytes read at once
LARGEST = 1 << 30  # characters of a text that is read as a whole
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".jsonl")
PARQUET = ".parquet"
COMPRESSED = (".gz", ".zst")
BAD = re.compile("[\0\udc80-\udcff]")  # NUL, and bytes that are not UTF-8 after surrogateescape


class Source(NamedTuple):
    """A stream of bytes that can be opened again."""

    name: str
    open: Callable[[], IO[bytes]]
    size: int  # bytes, as stored
    path: Path | None = None  # of a file

    @property
    def suffix(self) -> str:
        """The suffix without that of a compression: .jsonl of a.jsonl.gz."""
        path = Path(self.name)
        return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def find_sources(place: str) -> list[Source]:
    """The files of a path, folder or glob, in the order of their names. Raises DataError if there are none."""
    path = Path(place)
    if os.path.isdir(path):
        wanted = tuple(s + c for s in TEXT_SUFFIXES for c in ("", *COMPRESSED))
        inside = [p for p in _inside(path) if p.is_file() and p.name[0] != "."]
        # beside Parquet lie notes about the set (README.md)
        found = [p for p in inside if p.suffix == PARQUET] or [p for p in inside if p.name.endswith(wanted)]
        kinds = f"{', '.join(TEXT_SUFFIXES)}, plain or {' or '.join(COMPRESSED)}, or {PARQUET}"
        problem = f"no text file in this folder; expected {kinds}"
    elif not os.path.exists(path) and glob.has_magic(place):
        found = [p for p in map(Path, sorted(glob.glob(place, recursive=True))) if p.is_file()]
        problem = "no file matches; quote the pattern, or name a folder"
    else:
        found, problem = [path], ""
    if not found:
        raise DataError(f"{place}: {problem}")
    return [file_source(file) for file in found]


def _inside(folder: Path) -> list[Path]:
    """The files of a folder and of those in it. Raises DataError for one that cannot be read."""

    def fail(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); name another folder with --data"
        ) from None

    return sorted(Path(at) / name for at, _, names in os.walk(folder, onerror=fail) for name in names)


def file_source(path: Path) -> Source:
    """A file, decompressed by its suffix. Raises DataError if it does not exist."""
    try:
        size = files.plain_size(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a text file, a folder or a glob with --data") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a text file with --data") from None
    return Source(str(path), lambda: _open(path), size, path)


def read_text(path: Path, limit: int = LARGEST) -> str:
    """A whole file of at most `limit` characters as text. Raises DataError."""
    found, size = [], 0
    for piece in pieces(file_source(path), Counter()):
        found.append(piece)
        size += len(piece)
        if size > limit:
            raise DataError(f"{path}: more than {limit:,} characters, too long to be read at once; name a shorter file")
    return "".join(found)


def beginning(source: Source) -> bytes:
    """The first megabyte of a source, or all of a shorter one. Raises DataError."""
    return next(_read(source))


def text_source(name: str, text: str) -> Source:
    """A source of a text in memory."""
    data = text.encode()
    return Source(name, lambda: io.BytesIO(data), len(data))


def keep_stdin() -> Path:
    """Standard input as a file in the cache, named by its content, so that a run on it can be resumed.

    Raises DataError if it is empty, OSError.
    """
    folder = cache_folder() / "stdin"
    files.make_folders(folder)
    digest, size = hashlib.sha256(), 0
    temporary = files.temporary_path(folder / "stdin")
    try:
        while data := sys.stdin.buffer.read(PIECE):
            digest.update(data)
            files.append_bytes(temporary, data)
            size += len(data)
        if not size:
            raise DataError("standard input: empty; pipe text into --data -")
        files.flush(temporary)
        return files.replace(temporary, folder / f"{digest.hexdigest()[:16]}.txt")
    finally:
        files.discard(temporary)


def sha256(sources: list[Source], *, verify: bool = False) -> str:
    """The SHA-256 of the bytes of all sources and of their boundaries. Raises DataError.

    A file that has kept its size and times since it was hashed is not read again, except with `verify`.
    """
    whole = hashlib.sha256()
    for source in sources:
        known = source.path and not verify and remembered(source.path)
        whole.update(bytes.fromhex(known) if known else _sha256(source))
    return whole.hexdigest()


def _sha256(source: Source) -> bytes:
    before, part = source.path and stamp(source.path), hashlib.sha256()
    for data in _read(source):
        part.update(data)
    if source.path and before:
        remember(source.path, part.hexdigest(), before)
    return part.digest()


def pieces(source: Source, tally: Counter[str], *, skip_bad: bool = False, gutenberg: bool = False) -> Iterator[str]:
    """The text of a source piece by piece. `tally` counts the corrections made on the way.

    Raises DataError with file:line:column at a NUL or a byte that is not UTF-8; with `skip_bad` those come out as
    they are (a byte 0xNN as the character U+DCNN), for the caller to drop the document.
    """
    found = _checked(source, tally, skip_bad)
    return iter([without_marks("".join(found), tally)]) if gutenberg else found


def _checked(source: Source, tally: Counter[str], skip_bad: bool) -> Iterator[str]:
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("surrogateescape"), translate=True)
    line, column, first = 1, 1, True
    for data in _read(source):
        text = decoder.decode(data, final=not data)
        if first and text:
            first = False
            if text.startswith("\ufeff"):
                text = text[1:]
                tally["byte order mark dropped"] += 1
        if "\0" in text or not text.isascii():
            bad = None if skip_bad else BAD.search(text)
            if bad:
                before = text[: bad.start()]
                lines = before.count("\n")
                at = bad.start() - before.rfind("\n") if lines else column + bad.start()
                raise DataError(f"{source.name}:{line + lines}:{at}: {_describe(bad[0], source)}")
        lines = text.count("\n")
        column = len(text) - text.rfind("\n") if lines else column + len(text)
        line += lines
        if text:
            yield text
    newlines = decoder.newlines
    tally["line ends CRLF read as LF, files"] += newlines is not None and newlines != "\n"


SKIP = "or drop such documents (--skip-bad of microgpt train)"  # not every command that reads text has it


def _describe(char: str, source: Source) -> str:
    if char == "\0":
        return f"a NUL character; this is no text, or UTF-16: save it as UTF-8, {SKIP}"
    wide = beginning(source)[:2] in (b"\xff\xfe", b"\xfe\xff")
    hint = " (the file looks like UTF-16)" if wide else ""
    return f"byte 0x{ord(char) - 0xDC00:02x} is not UTF-8{hint}; save the file as UTF-8, {SKIP}"


def _read(source: Source) -> Iterator[bytes]:
    """The bytes, then an empty last piece."""
    try:
        with source.open() as file:
            while data := file.read(PIECE):
                yield data
    except DataError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{source.name}: cannot be read ({reason}); name a whole, readable text file") from None
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise DataError(f"{source.name}: damaged zstd data ({error}); download the file again") from None
    yield b""


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        _refuse_zeros(path)
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.suffix == ".zst":
        try:
            from microgpt.data.zstd import ZstdFile
        except ImportError:
            raise MachineError(f"{path}: zstandard is not installed; {install('data')}") from None
        return cast("IO[bytes]", ZstdFile(path))
    return files.open_plain(path)


def _refuse_zeros(path: Path) -> None:
    """Raise DataError for an archive that ends in PIECE zeros, since gzip reads those one by one."""
    with files.open_plain(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - PIECE))
        end = file.read(PIECE)
    if len(end) == PIECE and not any(end):
        raise DataError(f"{path}: damaged gzip data (it ends in zeros); download the file again")
