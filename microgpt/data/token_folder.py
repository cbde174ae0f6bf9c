"""A folder of tokens: those of all documents in one file, where each document begins, and the size of its text.

Memory holds one batch when it is written, and the pages in use when it is read.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microgpt import files
from microgpt.data.text_size import total
from microgpt.data.tokenize import Tokens
from microgpt.errors import DataError

TOKENS, OFFSETS, SIZES = "tokens.bin", "offsets.bin", "sizes.bin"


@dataclass(frozen=True)
class Encoded:
    """Documents as tokens, each BOS + tokens (+ BOS)."""

    tokens: np.ndarray  # int32, or uint16 where it lies on disk (N,)
    offsets: np.ndarray  # int64 (documents + 1,)
    sizes: np.ndarray  # int64 (documents, 4), the TextSize of each text
    sha256: str  # of the tokens as <i4 and of the offsets as <i8
    kept: np.ndarray | None = None  # int64: the documents without exact copies of earlier ones; None: all
    pages: mmap.mmap | None = None  # the mapped file of the tokens

    def release(self) -> None:
        """Release the mapped pages that were read, so that they do not fill the memory."""
        if self.pages is not None and hasattr(self.pages, "madvise"):
            self.pages.madvise(mmap.MADV_DONTNEED)


def digest(parts: Iterable[np.ndarray], offsets: np.ndarray) -> str:
    """The SHA-256 of tokens and offsets."""
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part, "<i4").data)
    found.update(np.ascontiguousarray(offsets, "<i8").data)
    return found.hexdigest()


class TokenWriter:
    """Writes a folder of tokens batch by batch. Raises OSError."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.folder = folder
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")
        self.n_tokens = self.n_documents = self.n_bytes = 0
        self._digest = hashlib.sha256()
        files.append_bytes(folder / OFFSETS, bytes(8))

    def add(self, batch: Tokens) -> None:
        """Append the documents of a batch."""
        ends = self.n_tokens + np.cumsum(batch.lengths)
        self._digest.update(np.ascontiguousarray(batch.tokens, "<i4").data)
        columns = (batch.tokens.astype(self.dtype), ends.astype("<i8"), batch.sizes.astype("<i8"))
        for name, column in zip((TOKENS, OFFSETS, SIZES), columns, strict=True):
            files.append_bytes(self.folder / name, column.tobytes())
        self.n_tokens, self.n_documents = int(ends[-1]), self.n_documents + len(ends)
        self.n_bytes += total(batch.sizes).bytes

    def close(self) -> str:
        """Flush the files; returns the SHA-256 that Encoded has."""
        with files.open_plain(self.folder / OFFSETS) as written:
            while data := written.read(1 << 22):
                self._digest.update(data)
        for name in (TOKENS, OFFSETS, SIZES):
            files.flush(self.folder / name)
        return self._digest.hexdigest()


def open_tokens(folder: Path, n_tokens: int, dtype: np.dtype, sha256: str, kept: np.ndarray | None = None) -> Encoded:
    """The mapped arrays of a folder. Raises DataError if a file is not as long as what was written, OSError."""
    stored = {name: files.plain_size(folder / name) for name in (TOKENS, OFFSETS, SIZES)}
    documents = stored[OFFSETS] // 8 - 1
    if stored[TOKENS] != n_tokens * dtype.itemsize or stored[SIZES] != documents * 4 * 8:
        raise DataError(f"{folder}: its files are incomplete; remove this folder, and it is made again")
    tokens, pages = map_pages(folder / TOKENS, dtype)
    return Encoded(
        tokens, map_numbers(folder / OFFSETS), map_numbers(folder / SIZES).reshape(documents, 4), sha256, kept, pages
    )


def map_pages(path: Path, dtype: np.dtype) -> tuple[np.ndarray, mmap.mmap]:
    """A file as an array, and its pages, which can be released. Raises OSError, ValueError for an empty file."""
    with files.open_plain(path) as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, dtype), pages


def map_numbers(path: Path) -> np.ndarray:
    """A file of int64 as an array. Raises OSError, ValueError for an empty file."""
    return np.memmap(path, np.dtype("<i8"), "r")
