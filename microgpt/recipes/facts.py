"""Facts about a text that decide how a model of it is trained, measured on a sample of bounded size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from microgpt.config import Data
from microgpt.data.conversations import is_chat
from microgpt.data.documents import paragraphs
from microgpt.data.gutenberg import BEGIN
from microgpt.data.sources import COMPRESSED, PIECE, Source, find_sources, pieces

Kind = Literal["chat", "jsonl", "short lines", "paragraphs", "lines", "chunks"]

SAMPLE = 4 * PIECE  # characters of the sample, of SOURCES files at most
SOURCES = 32
PACKED = 3  # bytes of text per byte of a compressed file, about
SHORT_LINE = 32  # characters of a short line, such as a name or a word
MIN_DOCUMENTS = 20  # of which a tenth is two


@dataclass(frozen=True)
class Facts:
    """A text in figures. Those of a text longer than the sample are estimates."""

    kind: Kind  # the way to read it
    bytes: int
    documents: int  # that this way finds
    line: int  # characters of the longest line but one in twenty
    alphabet: int  # different characters
    repeated: float  # share of the characters in lines that are copies of earlier ones, short lines aside
    gutenberg: bool  # whether it has Project Gutenberg's header

    @property
    def new_bytes(self) -> float:
        """The bytes without repeated lines: the length of the text that there is to learn."""
        return self.bytes * (1 - self.repeated)


def measure(data: Data) -> Facts:
    """The facts of the text that a data section names by its path. Raises DataError if it cannot be read."""
    assert data.path, "standard input was kept as a file, and a data set has a scenario"
    sources = find_sources(data.path)
    size = sum(source.size * (PACKED if source.name.endswith(COMPRESSED) else 1) for source in sources)
    sampled = sources[:: -(-len(sources) // SOURCES)]
    parts = [_beginning(source, SAMPLE // len(sampled), data.skip_bad) for source in sampled]
    text = "\n\n".join(parts)
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    lengths = sorted(map(len, lines)) or [0]
    read = len(text.encode("utf-8", "surrogateescape"))
    kind, documents = _kind(data, sources[0], text, lines)
    return Facts(
        kind=kind,
        bytes=size,
        documents=round(documents * max(1.0, size / max(1, read))),
        line=lengths[len(lengths) * 95 // 100],
        alphabet=len(set(text)),
        repeated=_repeated(lines),
        gutenberg=any(map(BEGIN.search, parts)),
    )


def _beginning(source: Source, most: int, skip_bad: bool) -> str:
    """The first `most` characters of a source, without the line that they end in where there are more."""
    found, size = list[str](), 0
    with closing(_pieces(source, skip_bad)) as read:
        for piece in read:
            found.append(piece)
            size += len(piece)
            if size > most:
                return "".join(found)[:most].rpartition("\n")[0] or "".join(found)[:most]
    return "".join(found)


def _pieces(source: Source, skip_bad: bool) -> Generator[str, None, None]:
    yield from pieces(source, Counter(), skip_bad=skip_bad)


def _kind(data: Data, first: Source, text: str, lines: list[str]) -> tuple[Kind, int]:
    """The way to read a text, and the documents that it finds: as configured, else by the text's own structure."""
    if is_chat(data):
        return "chat", len(lines)
    if data.format == "jsonl" or (data.format == "auto" and first.suffix == ".jsonl"):
        return "jsonl", len(lines)
    parts = sum(len(texts) for _, texts in paragraphs([(range(text.count("\n") + 1), text.split("\n"))]))
    chunks = len(text) // data.chunk_size
    found = {"paragraphs": parts, "lines": len(lines), "chunks": chunks}
    if data.format in found:
        return data.format, found[data.format]  # type: ignore[return-value]
    lengths = sorted(map(len, lines)) or [0]
    if parts * MIN_DOCUMENTS <= len(lines) + MIN_DOCUMENTS and lengths[len(lengths) * 95 // 100] <= SHORT_LINE:
        return "short lines", len(lines)
    if parts >= MIN_DOCUMENTS and len(lines) >= parts:
        return "paragraphs", parts
    return ("lines", len(lines)) if len(lines) >= MIN_DOCUMENTS else ("chunks", chunks)


def _repeated(lines: list[str]) -> float:
    """The share of the characters in lines that occurred before; names and headings may well occur twice."""
    seen, copies, size = set[str](), 0, 0
    for line in lines:
        if len(line) <= SHORT_LINE:
            continue
        size += len(line)
        copies += len(line) * (line in seen)
        seen.add(line)
    return copies / max(1, size)
