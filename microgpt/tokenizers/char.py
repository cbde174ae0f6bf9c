"""One token per character: the sorted characters of the training text, then the special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from microgpt.errors import DataError
from microgpt.tokenizers import UNK
from microgpt.tokenizers.base import UNKNOWN, Base, Size, split, split_vocab


class Char(Base):
    """A character tokenizer; ids are indices into `chars`, BOS is the last."""

    kind = "char"
    PATTERN = r"[\s\S]"

    def __init__(self, chars: str, special: Sequence[str] = ("bos",)) -> None:
        if not chars or len(set(chars)) != len(chars):
            raise ValueError("characters must occur once each")
        super().__init__((char.encode() for char in chars), special)
        self.chars = chars
        points = np.frombuffer(chars.encode("utf-32-le"), np.uint32)
        # One entry more than the highest character: all beyond are looked up there.
        self._ids = np.full(int(points.max()) + 2, self.special.get("unk", UNKNOWN), np.int32)
        self._ids[points] = np.arange(len(chars))

    @classmethod
    def train(cls, kind: str, texts: Iterable[str], special: Sequence[str], vocab_size: Size, merges: Size) -> Self:
        """The characters that occur, in the order of their code points. Raises DataError if there are none."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        if not seen:
            raise DataError("no text to learn a vocabulary from; expected at least one character")
        if surrogates := sorted(char for char in seen if "\ud800" <= char <= "\udfff"):
            raise DataError(f"{surrogates[0]!r} is half a character (a lone surrogate); leave it out")
        return cls("".join(sorted(seen)), special)

    def encode(self, text: str, *, unk: bool = False) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        if "unk" in self.special or not len(ids) or ids.min() != UNKNOWN:
            return ids
        if unk:
            return ids[ids != UNKNOWN]
        at = int(ids.argmin())
        raise self.unknown(text[at], at + 1)

    def encode_batch(self, texts: list[str], *, unk: bool = False) -> tuple[np.ndarray, np.ndarray]:
        if unk:
            return super().encode_batch(texts, unk=unk)
        try:
            return self.encode("".join(texts)), np.fromiter(map(len, texts), np.int64, len(texts))
        except DataError:
            return super().encode_batch(texts)  # to name the position within its text

    def unknown_parts(self, text: str) -> list[str]:
        known = set(self.chars)
        return [char for char in text if char not in known]

    def sketch(self) -> str:
        shown = self.chars if len(self.chars) <= 40 else self.chars[:37] + "…"
        return f"{len(self.chars)} characters: {shown!r}"

    def to_json(self) -> bytes:
        return self.document(
            self.chars,
            pre_tokenizer=split(self.PATTERN),
            decoder={"type": "Fuse"},
            model={"type": "WordLevel", "vocab": {}, "unk_token": UNK},
        )

    @staticmethod
    def reads(file: dict[str, Any]) -> bool:
        return file["model"]["type"] == "WordLevel" and file["pre_tokenizer"]["pattern"]["Regex"] == Char.PATTERN

    @classmethod
    def from_dict(cls, file: dict[str, Any]) -> Self:
        chars, special = split_vocab(file)
        if any(len(char) != 1 for char in chars):
            raise ValueError("tokens longer than a character")
        return cls("".join(chars), special)
