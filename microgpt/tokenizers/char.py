"""One token a character: the sorted characters of the training text, then BOS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from microgpt.errors import DataError
from microgpt.fsio import to_json
from microgpt.tokenizers import BOS

UNKNOWN = -1


class Char:
    """A character tokenizer; ids are places in `chars`, BOS is the last."""

    kind = "char"

    def __init__(self, chars: str) -> None:
        if not chars or len(set(chars)) != len(chars):
            raise ValueError("characters must be there once each")
        self.chars = chars
        points = np.frombuffer(chars.encode("utf-32-le"), np.uint32)
        self._ids = np.full(int(points.max()) + 1, UNKNOWN, np.int32)
        self._ids[points] = np.arange(len(chars))

    @classmethod
    def train(cls, texts: Iterable[str]) -> Char:
        """The characters that occur, in the order of their code points."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls("".join(sorted(seen)))

    @property
    def vocab_size(self) -> int:
        return len(self.chars) + 1

    @property
    def bos(self) -> int:
        return len(self.chars)

    def encode(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        bad = (ids == UNKNOWN) | (points >= len(self._ids))
        if bad.any():
            at = int(bad.argmax())
            raise DataError(
                f"character {text[at]!r} at position {at + 1} is not in this tokenizer's vocabulary "
                f"({self._sketch()}); leave it out, or train on text that has it",
                "E_UNKNOWN_TOKEN",
            )
        return ids

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return self.encode("".join(texts)), lengths

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.chars[token] for token in tokens if token < len(self.chars))

    def _sketch(self) -> str:
        shown = self.chars if len(self.chars) <= 40 else self.chars[:37] + "…"
        return f"{len(self.chars)} characters: {shown!r}"

    def to_json(self) -> bytes:
        special = {"id": self.bos, "content": BOS, "single_word": False, "lstrip": False, "rstrip": False}
        return to_json(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [{**special, "normalized": False, "special": True}],
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": r"[\s\S]"},
                    "behavior": "Isolated",
                    "invert": False,
                },
                "post_processor": None,
                "decoder": {"type": "Fuse"},
                "model": {
                    "type": "WordLevel",
                    "vocab": {**{char: i for i, char in enumerate(self.chars)}, BOS: self.bos},
                    "unk_token": "<unk>",
                },
            }
        )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Char:
        """Read back what `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        vocab = content["model"]["vocab"]
        chars = sorted((token for token in vocab if token != BOS), key=vocab.__getitem__)
        if [vocab[char] for char in chars] != list(range(len(chars))) or vocab.get(BOS) != len(chars):
            raise ValueError("ids must be 0, 1, 2, … with BOS last")
        if any(len(char) != 1 for char in chars):
            raise ValueError("tokens longer than a character")
        return cls("".join(chars))
