"""Where pieces of a generated text stand in the training text, word for word: what a model has memorised."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import NamedTuple

import numpy as np

from microgpt.config import Data
from microgpt.data.conversations import is_chat, read_chats
from microgpt.data.documents import read_documents
from microgpt.data.here import here, sources_of
from microgpt.data.split import split
from microgpt.errors import DataError

SEPARATOR = "\0"  # which no document holds
MOST_CHARS = 1 << 24  # of a training text that is searched
MOST_BYTES = 4 * MOST_CHARS  # of its files, which are not read beyond
AROUND = 40  # characters shown on either side of a place


class Match(NamedTuple):
    """A piece of the text, as long as it can be at its beginning, that stands in the training text."""

    start: int  # in the text, in characters
    end: int
    place: int  # the first place in the searched text


@dataclass(frozen=True)
class TrainingText:
    """The documents of a run, or the messages of its conversations, as one text to search."""

    source: str
    texts: Sequence[str]
    held_out: frozenset[int]  # documents that were not trained on
    unit: str  # "document" or "message"

    @cached_property
    def joined(self) -> str:
        """All texts, each between two separators."""
        return SEPARATOR + SEPARATOR.join(self.texts) + SEPARATOR

    @cached_property
    def _begins(self) -> np.ndarray:
        return np.fromiter(accumulate((len(text) + 1 for text in self.texts), initial=1), np.int64)

    def document(self, place: int) -> int:
        """The document, counted from 0, that a place of the searched text is in."""
        return int(np.searchsorted(self._begins, place, side="right")) - 1

    def around(self, place: int, length: int) -> tuple[str, str]:
        """The characters of the document before and after a piece."""
        number = self.document(place)
        begin, end = int(self._begins[number]), int(self._begins[number + 1]) - 1
        before = self.joined[max(begin, place - AROUND) : place]
        return before, self.joined[place + length : min(end, place + length + AROUND)]

    def whole(self, text: str) -> int | None:
        """The place of a document that is this text, or None."""
        at = self.joined.find(f"{SEPARATOR}{text}{SEPARATOR}") if text else -1
        return at + 1 if at >= 0 else None

    def matches(self, text: str, least: int, seconds: float) -> tuple[list[Match], int]:
        """The longest pieces of a text, none within another, of at least `least` characters; and the characters that
        were looked at within `seconds`.

        A piece that begins one character later ends no earlier, so the whole takes 2n searches for n characters.
        """
        found: list[Match] = []
        deadline, end = time.monotonic() + seconds, 0
        for start in range(len(text)):
            if time.monotonic() > deadline:
                return found, start
            end = max(end, start)
            place, before = 0, end
            while end < len(text) and (at := self.joined.find(text[start : end + 1], place)) >= 0:
                place, end = at, end + 1
            if end - start >= least and (end > before or not found):
                found.append(Match(start, end, place))
        return found, len(text)


def training_text(data: Data) -> TrainingText:
    """The text of a data section as it is on this machine now; nothing is downloaded.

    Raises DataError or UsageError for one that is not there or too long, and as read_documents and read_chats.
    """
    if sum(source.size for source in sources_of(data)) > MOST_BYTES:
        raise _too_long()
    data = here(data)
    if is_chat(data):
        chats = read_chats(data)
        return _checked(TrainingText(chats.source, chats.texts, frozenset(), "message"))
    documents = read_documents(data)
    if documents.held is None:
        raise _too_long()
    texts, held = documents.held, np.zeros(0, np.int64)
    if data.val_fraction:
        sizes = np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))
        held = split(range(len(texts)), sizes, data, Random(0), data.val_fraction)[1]
    return _checked(TrainingText(documents.source, texts, frozenset(held.tolist()), "document"))


def _checked(found: TrainingText) -> TrainingText:
    if sum(map(len, found.texts)) > MOST_CHARS:
        raise _too_long()
    return found


def _too_long() -> DataError:
    return DataError(f"the training text has more than {MOST_CHARS:,} characters, which are not searched")
