"""One token per word, punctuation mark and space; in the lossy form, words and punctuation marks alone.

A word is a run of other characters between marks and spaces. Both classes are listed by code point, so that every
regex engine splits alike, whichever version of Unicode it has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Self

import numpy as np

from microgpt.errors import DataError, UsageError
from microgpt.tokenizers import UNK
from microgpt.tokenizers.base import Base, Size, replace, split, split_vocab

Ranges = tuple[tuple[int, int], ...]

# Where str.split() splits.
SPACES: Ranges = (
    (0x09, 0x0D),
    (0x1C, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
)
# Controls, punctuation and symbols; the underscore, superscripts and ordinals belong to words.
MARKS: Ranges = (
    (0x00, 0x08),
    (0x0E, 0x1B),
    (0x21, 0x2F),
    (0x3A, 0x40),
    (0x5B, 0x5E),
    (0x60, 0x60),
    (0x7B, 0x84),
    (0x86, 0x9F),
    (0xA1, 0xA9),
    (0xAB, 0xB1),
    (0xB4, 0xB4),
    (0xB6, 0xB8),
    (0xBB, 0xBB),
    (0xBF, 0xBF),
    (0xD7, 0xD7),
    (0xF7, 0xF7),
    (0x2010, 0x2027),  # dashes, quotes, ellipsis
    (0x2030, 0x203E),
    (0x2041, 0x2053),
    (0x20A0, 0x20CF),  # currencies
    (0x2190, 0x245F),  # arrows, mathematics, technical signs
    (0x2500, 0x2BFF),  # boxes, symbols, dingbats
    (0x3001, 0x3004),  # East Asian punctuation
    (0x3008, 0x3020),
    (0xFF01, 0xFF0F),  # its full-width forms
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF3E),
    (0xFF40, 0xFF40),
    (0xFF5B, 0xFF65),
    (0x1F000, 0x1FAFF),  # pictographs
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
        joined = self.words[token] in NO_SPACE_BEFORE or self.words[last] in NO_SPACE_AFTER
        return b"" if joined else b" "

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
