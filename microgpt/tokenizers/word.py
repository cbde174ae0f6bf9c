"""One token per word, punctuation mark and space; in the lossy form, words and punctuation marks alone.

A word is a run of other characters between marks and spaces. Both classes are listed by code point, so that every
regex engine splits alike, whichever version of Unicode it has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, Self

import numpy as np

from microgpt.errors import DataError, UsageError
from microgpt.tokenizers import UNK
from microgpt.tokenizers.base import Base, Size, replace, split, split_vocab

Ranges = list[tuple[int, int]]


def ranges(points: str) -> Ranges:
    """Ranges of code points from their hexadecimal numbers: "9-d 85" is 0x09 to 0x0d, and 0x85."""
    pairs = (word.partition("-") for word in points.split())
    return [(int(first, 16), int(last or first, 16)) for first, _, last in pairs]


# Where str.split() splits.
SPACES = ranges("09-0d 1c-20 85 a0 1680 2000-200a 2028-2029 202f 205f 3000")
# Controls, punctuation and symbols; the underscore, superscripts and ordinals belong to words.
MARKS = ranges(
    "00-08 0e-1b 21-2f 3a-40 5b-5e 60 7b-84 86-9f a1-a9 ab-b1 b4 b6-b8 bb bf d7 f7 "
    "2010-2027 2030-203e 2041-2053 20a0-20cf "  # dashes, quotes, ellipsis; currencies
    "2190-245f 2500-2bff "  # arrows, mathematics, technical signs, boxes, symbols, dingbats
    "3001-3004 3008-3020 ff01-ff0f ff1a-ff20 ff3b-ff3e ff40 ff5b-ff65 "  # East Asian punctuation; its full-width forms
    "1f000-1faff"  # pictographs
)


def charset(*sets: Ranges) -> str:
    """The inside of a character class, for Python's engine."""
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for ranges in sets for first, last in ranges)


def portable(pattern: str) -> str:
    """The same pattern for the engine of the `tokenizers` library."""
    return re.sub(r"\\U([0-9a-f]{8})", lambda found: f"\\x{{{int(found[1], 16):x}}}", pattern)


WORD = f"[^{charset(SPACES, MARKS)}]+"
LOSSLESS = f"{WORD}|[{charset(SPACES, MARKS)}]"
LOSSY = f"{WORD}|[{charset(MARKS)}]"

NO_SPACE_BEFORE = frozenset(".,;:!?'\")-]}")
NO_SPACE_AFTER = frozenset("('\"[{")


def space(last: str, word: str) -> str:
    """The space between two words or marks of the lossy form, or none."""
    return "" if word in NO_SPACE_BEFORE or last in NO_SPACE_AFTER else " "


class Word(Base):
    """A word tokenizer; ids are indices into `words`, BOS is the last."""

    takes = ("vocab_size",)

    def __init__(self, words: Sequence[str], special: Sequence[str] = ("bos",), *, lossy: bool = False) -> None:
        if not words or len(set(words)) != len(words):
            raise ValueError("words must occur once each")
        super().__init__((word.encode() for word in words), special)
        self.kind = "word-lossy" if lossy else "word"
        self.words = list(words)
        self.lossy = lossy
        self.glue = self._space if lossy else None
        self._find = re.compile(LOSSY if lossy else LOSSLESS)
        self._ids = {word: i for i, word in enumerate(words)}

    def _space(self, last: int, token: int) -> bytes:
        return space(self.words[last], self.words[token]).encode()

    @classmethod
    def train(cls, kind: str, texts: Iterable[str], special: Sequence[str], vocab_size: Size, merges: Size) -> Self:
        """The words that occur, sorted; the most frequent ones and <unk> if vocab_size has no room for all.

        Of equally frequent words those that come first in the text stay. Raises DataError, UsageError.
        """
        lossy = kind == "word-lossy"
        find = re.compile(LOSSY if lossy else LOSSLESS)
        seen: Counter[str] = Counter()
        for text in texts:
            seen.update(find.findall(text))
        if not seen:
            raise DataError("no text to learn a vocabulary from; expected at least one word")
        if bad := next((word for word in seen if re.search("[\ud800-\udfff]", word)), None):
            raise DataError(f"{bad!r} has half a character (a lone surrogate); leave it out")
        if vocab_size is not None and len(seen) + len(special) > vocab_size:
            special = special if "unk" in special else ("unk", *special)
            room = vocab_size - len(special)
            if room < 1:
                raise UsageError(
                    f"vocab_size: {vocab_size} has no room for words; expected at least {len(special) + 1}"
                )
            return cls(sorted(word for word, _ in seen.most_common(room)), special, lossy=lossy)
        return cls(sorted(seen), special, lossy=lossy)

    def encode(self, text: str, *, unk: bool = False) -> np.ndarray:
        words = self._find.findall(text)
        if len(words) > 1:
            try:
                return np.array(itemgetter(*words)(self._ids), np.int32)
            except KeyError:
                pass
        if "unk" in self.special:
            missing = self.special["unk"]
            return np.array([self._ids.get(word, missing) for word in words], np.int32)
        if unk:
            return np.array([self._ids[word] for word in words if word in self._ids], np.int32)
        for found in self._find.finditer(text):
            if found[0] not in self._ids:
                raise self.unknown(found[0], found.start() + 1)
        return np.array([self._ids[word] for word in words], np.int32)

    def normalize(self, text: str) -> str:
        if not self.lossy:
            return text
        words = self._find.findall(text)
        return "".join([*words[:1], *(space(last, word) + word for last, word in pairwise(words))])

    def unknown_parts(self, text: str) -> list[str]:
        return [word for word in self._find.findall(text) if word not in self._ids]

    def sketch(self) -> str:
        return f"{len(self.words):,} words"

    def to_json(self) -> bytes:
        decoder: dict[str, Any] = {"type": "Fuse"}
        if self.lossy:
            spaced = {"type": "WordPiece", "prefix": "##", "cleanup": False}
            before = replace(r" (?=[.,;:!?'\")\-\]}])", "")
            after = replace(r"(?<=[('\"\[{]) ", "")
            decoder = {"type": "Sequence", "decoders": [spaced, decoder, before, after]}
        return self.document(
            self.words,
            pre_tokenizer=split(portable(LOSSY), "Removed", invert=True) if self.lossy else split(portable(LOSSLESS)),
            decoder=decoder,
            model={"type": "WordLevel", "vocab": {}, "unk_token": UNK},
        )

    @staticmethod
    def reads(file: dict[str, Any]) -> bool:
        return file["model"]["type"] == "WordLevel"

    @classmethod
    def from_dict(cls, file: dict[str, Any]) -> Self:
        words, special = split_vocab(file)
        lossy = bool(file["pre_tokenizer"]["invert"])
        find = re.compile(LOSSY if lossy else LOSSLESS)
        if any(not find.fullmatch(word) for word in words):
            raise ValueError("tokens that are not one word, mark or space")
        return cls(words, special, lossy=lossy)
