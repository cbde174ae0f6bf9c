"""Text → documents: lines, paragraphs, chunks, JSONL or Parquet; read again at each pass, in bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from microgpt.config import Data
from microgpt.data import parquet
from microgpt.data.datasets import find, pydocs
from microgpt.data.sources import BAD, PARQUET, Source, find_sources, pieces, text_source
from microgpt.errors import DataError, UsageError, nearest
from microgpt.json_text import unique_keys

IN_MEMORY = 64 << 20  # characters held in memory; longer text is read from disk at each pass
MAX_LINE = 1 << 24  # characters per line
SHOWN = 200  # characters kept of a reject

Batch = tuple[Sequence[int], list[str]]  # the number of the line or chunk where each text begins; the texts


class Reject(NamedTuple):
    """A document that --skip-bad dropped, and the reason."""

    file: str
    line: int
    why: str
    text: str

    @classmethod
    def of(cls, file: str, line: int, why: str, text: str) -> Reject:
        """A reject with the beginning of its text, escaped where a file could not hold it."""
        return cls(file, line, why, text[:SHOWN].encode("utf-8", "backslashreplace").decode())


class Documents:
    """The documents of a data section. Each pass reads them; `notes` and `rejects` describe the last whole pass."""

    def __init__(self, sources: list[Source], data: Data, name: str, notes: Iterable[str] = ()) -> None:
        self.sources, self.data, self.source = sources, data, name
        self.rejects: list[Reject] = []
        self.tally: Counter[str] = Counter()
        self.held: list[str] | None = None
        self._notes = list(notes)

    @property
    def texts(self) -> Iterable[str]:
        """The documents one by one; a list if they are held in memory."""
        return chain.from_iterable(self.batches()) if self.held is None else self.held

    @property
    def notes(self) -> list[str]:
        """Notes on the text for the user, one line each, dropped rejects first."""
        counts = sorted(self.tally.items(), key=lambda item: item[0] != REJECTS)
        return [*self._notes, *(f"{self.source}: {what}: {count:,}" for what, count in counts if count)]

    def batches(self) -> Iterator[list[str]]:
        """The documents in lists of a few megabytes. Raises DataError."""
        if self.held is not None:
            yield from (self.held[i : i + 50_000] for i in range(0, len(self.held), 50_000))
            return
        self.tally, self.rejects = Counter(), []
        # an empty document would be BOS alone, which has no target
        alone = self.data.packing == "rows" and not self.data.trailing_bos
        drops = self.data.drop_empty or alone
        for source in self.sources:
            for batch in self._split(source):
                texts = self._healthy(source, batch) if self.data.skip_bad else batch[1]
                empty = texts.count("")
                self.tally["empty documents " + ("dropped" if drops else "kept")] += empty
                yield list(filter(None, texts)) if empty and drops else texts
        self.tally[REJECTS] += len(self.rejects)

    def hold(self, limit: int) -> bool:
        """Read all documents into memory, unless they are longer than `limit` characters. Raises DataError."""
        held: list[str] = []
        if sum(source.size for source in self.sources) > 4 * limit:  # bytes; a character has at most four
            return False
        for batch in self.batches():
            limit -= sum(map(len, batch))
            held += batch
            if limit < 0:
                return False
        if copies := len(held) - len(set(held)):
            if self.data.drop_duplicates:
                held = list(dict.fromkeys(held))
            self.tally[COPIES[self.data.drop_duplicates]] += copies
        if not held:
            raise self.nothing()
        self.held = held
        return True

    def nothing(self) -> DataError:
        """The error of a text without documents."""
        kind = self._format(self.sources[0])
        expected = {
            "lines": "one document per line",
            "paragraphs": "paragraphs with blank lines between them",
            "chunks": f"at least {self.data.chunk_size} characters (--chunk-size)",
            "jsonl": f'one JSON object per line, {{"{self.data.text_field}": "…"}}',
            "parquet": f"texts in the column {self.data.text_field!r}",
        }[kind]
        return DataError(f"{self.source}: no text in it; expected {expected}")

    @property
    def formats(self) -> list[str]:
        """The formats that the sources are read in."""
        return sorted({self._format(source) for source in self.sources})

    def _format(self, source: Source) -> str:
        if source.suffix == PARQUET:
            if self.data.format != "auto":
                what = f"--format {self.data.format}: {source.name} is Parquet, where a row is a document"
                raise UsageError(f"{what}; set --format auto")
            return "parquet"
        if self.data.format != "auto":
            return self.data.format
        return "jsonl" if source.suffix == ".jsonl" else "lines"

    def _split(self, source: Source) -> Iterator[Batch]:
        data, kind = self.data, self._format(source)
        if kind == "parquet":
            return (self._rows(source, *batch) for batch in parquet.texts(Path(source.name), data.text_field))
        text = pieces(source, self.tally, skip_bad=data.skip_bad, gutenberg=data.strip_gutenberg)
        if kind == "chunks":
            return chunks(fold(text) if data.fold_whitespace else text, data.chunk_size, data.overlap)
        numbered = self._lines(source, text)
        if kind == "paragraphs":
            return paragraphs(numbered)
        if kind == "jsonl":
            return (self._objects(source, batch) for batch in numbered)
        return ((numbers, list(map(str.strip, texts))) for numbers, texts in numbered)

    def _lines(self, source: Source, text: Iterator[str]) -> Iterator[Batch]:
        """The lines of a text with their numbers; a line longer than MAX_LINE is rejected."""
        number, rest, too_long = 1, "", False
        for piece in chain(text, [None]):
            if piece is None:  # the last line may have no line end
                found, rest = [rest] if rest else [], ""
            else:
                *found, rest = (rest + piece).split("\n")
            numbers = range(number, number + len(found))
            begun = found[0] if found else rest  # only a line that began in an earlier piece can be longer than a piece
            if len(begun) > MAX_LINE and not too_long:
                why = f"a line of more than {MAX_LINE:,} characters; break it, or read it with --format chunks"
                self._bad(source, number, why, begun)
                too_long = True
            if too_long:
                numbers, too_long = numbers[1:], not found
                rest = rest if found else ""
                found = found[1:]
            number = numbers.stop
            yield numbers, found

    def _objects(self, source: Source, batch: Batch) -> Batch:
        numbers, found = list[int](), list[str]()
        for number, line in zip(*batch, strict=True):
            try:
                found.append(text_of(line, self.data.text_field))
                numbers.append(number)
            except ValueError as error:
                self._bad(source, number, str(error), line)
        return numbers, found

    def _rows(self, source: Source, rows: range, values: list[str | bytes | None]) -> Batch:
        """The texts of a batch of Parquet; a null one is bad, and a NUL or a byte that is not UTF-8."""
        numbers, found = list[int](), list[str]()
        for number, value in zip(rows, values, strict=True):
            text = value if isinstance(value, str) else (value or b"").decode(errors="surrogateescape")
            why = "no text (null)" if value is None else "" if text.isascii() and "\0" not in text else unreadable(text)
            if why:
                self._bad(source, number, why, text)
            else:
                numbers.append(number)
                found.append(text.replace("\r\n", "\n").strip())
        return numbers, found

    def _healthy(self, source: Source, batch: Batch) -> list[str]:
        """A batch without the texts that hold a NUL or bytes that are not UTF-8, which become rejects."""
        found = []
        for number, text in zip(*batch, strict=True):
            if why := unreadable(text):
                self._bad(source, number, why, text)
            else:
                found.append(text)
        return found

    def _bad(self, source: Source, line: int, why: str, text: str) -> None:
        """Record a reject with --skip-bad, else raise DataError."""
        if not self.data.skip_bad:
            raise DataError(f"{source.name}:{line}: {why}, or drop it (--skip-bad of microgpt train)")
        self.rejects.append(Reject.of(source.name, line, why, text))


REJECTS = "rejects dropped (--skip-bad); rejects.jsonl lists them"
COPIES = {True: "exact duplicates dropped", False: "exact duplicates kept (--drop-duplicates drops them)"}


def unreadable(text: str) -> str:
    """A description of the NUL or the byte that is not UTF-8 in a text of `pieces` with `skip_bad`; empty if none."""
    bad = BAD.search(text)
    if not bad:
        return ""
    what = "a NUL character" if bad[0] == "\0" else f"byte 0x{ord(bad[0]) - 0xDC00:02x} is not UTF-8"
    return f"{what} at character {bad.start() + 1}"


def shared(data: Data) -> int:
    """The number of documents on either side that a document shares text with."""
    if data.format != "chunks":
        return 0
    return -(-data.chunk_size // (data.chunk_size - data.overlap)) - 1


def read_documents(data: Data, *, hold: bool = True) -> Documents:
    """The documents of a data section: of `path`, or of a data set by name; held in memory unless they are long.

    Without `hold` they are read at each pass in any case.

    Raises UsageError if neither is named, DataError if the text cannot be used.
    """
    notes: list[str] = []
    if data.path:
        sources, name = find_sources(data.path), data.path
    elif data.dataset == "pydocs":
        sources, name = [text_source("pydocs", pydocs())], "pydocs"
    elif data.dataset:
        path, note = find(data.dataset)
        sources, name = find_sources(str(path)), str(path)
        notes += [note] if note else []
    else:
        raise UsageError("nothing to train on; name a text file with --data, a data set (--dataset) or a scenario")
    documents = Documents(sources, data, name, notes)
    if hold:
        documents.hold(IN_MEMORY)
    return documents


def fold(text: Iterable[str]) -> Iterator[str]:
    """The text with each run of whitespace replaced by one space, none at its ends; pieces may be cut anywhere."""
    begun = pending = False
    for piece in text:
        words = " ".join(piece.split())
        if words:
            yield " " + words if begun and (pending or piece[0].isspace()) else words
            begun, pending = True, piece[-1].isspace()
        elif piece:
            pending = True


def chunks(text: Iterable[str], size: int, overlap: int) -> Iterator[Batch]:
    """Windows of `size` characters that overlap by `overlap`; a shorter tail is dropped."""
    rest, number = "", 1
    for piece in text:
        rest += piece
        found = [rest[at : at + size] for at in range(0, len(rest) - size + 1, size - overlap)]
        rest = rest[len(found) * (size - overlap) :]
        yield range(number, number + len(found)), found
        number += len(found)


def paragraphs(numbered: Iterable[Batch]) -> Iterator[Batch]:
    """Groups of lines between blank lines; line ends and indents within a group stay."""
    first, current = 1, list[str]()
    for batch in numbered:
        numbers, found = list[int](), list[str]()
        for number, line in zip(*batch, strict=True):
            if line and not line.isspace():
                first = first if current else number
                current.append(line.rstrip())
            elif current:
                found.append("\n".join(current))
                numbers.append(first)
                current = []
        yield numbers, found
    if current:
        yield [first], ["\n".join(current)]


def text_of(line: str, field: str) -> str:
    """The text of a JSON object. Raises ValueError with the reason and the remedy."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON; write null or a number")

    if not line or line.isspace():
        raise ValueError("a blank line; expected a JSON object: remove the line")
    try:
        found = json.loads(line, object_pairs_hook=unique_keys, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at column {error.colno} ({error.msg}); correct the line") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply; correct the line") from None
    if not isinstance(found, dict):
        raise ValueError(f'expected a JSON object, got {type(found).__name__}; write {{"{field}": "…"}}')
    if field not in found:
        hint = nearest(field, found) if found else "it is empty"
        raise ValueError(f"no key {field!r}; {hint}; name the key with --text-field")
    text = found[field]
    if not isinstance(text, str):
        raise ValueError(f"{field!r} must be a text, got {type(text).__name__}; name another key with --text-field")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"{field!r} holds half a character (a lone surrogate); correct the text")
    if "\0" in text:
        raise ValueError(f"{field!r} holds a NUL character; correct the text")
    return text.replace("\r\n", "\n").strip()
