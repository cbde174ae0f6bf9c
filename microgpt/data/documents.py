"""Files of text to documents."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from microgpt.config import Data
from microgpt.data.datasets import find
from microgpt.errors import DataError, UsageError


class Documents(NamedTuple):
    """Texts to train on, where they came from, and what a user should be told about them."""

    texts: list[str]
    source: str
    notes: list[str]


def read_documents(data: Data) -> Documents:
    """The documents of a data section: a file (`path`) or a data set by name.

    Raises UsageError if neither is named, DataError if the text cannot be used.
    """
    notes: list[str] = []
    if data.path:
        path = Path(data.path)
    elif data.dataset:
        path, note = find(data.dataset)
        notes += [note] if note else []
    else:
        raise UsageError("nothing to train on; name a scenario, a data set (--dataset) or a file (--data)")
    texts = lines(read_text(path, notes))
    if not texts:
        raise DataError(f"{path}: no text in it; expected a document a line")
    return Documents(texts, str(path), notes)


def lines(text: str) -> list[str]:
    """A document a line, stripped, empty ones dropped."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def read_text(path: Path, notes: list[str]) -> str:
    """A UTF-8 file with a byte order mark dropped and line ends made \\n, both noted.

    Raises DataError with the line and column of a byte that is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a text file with --data") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a text file with --data") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise DataError(
            f"{path}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    if text.startswith("\ufeff"):
        text = text[1:]
        notes.append(f"{path}: byte order mark dropped")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        notes.append(f"{path}: line ends CRLF read as LF")
    return text
