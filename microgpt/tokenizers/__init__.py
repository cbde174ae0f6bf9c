"""Text to tokens and back: one interface, one file format (tokenizer.json of the `tokenizers` library)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from microgpt.errors import CheckpointError
from microgpt.fsio import parse_json

BOS = "<bos>"
KINDS = ("char",)


class Tokenizer(Protocol):
    """What training, generation and the server need of a tokenizer. BOS never comes out of a text."""

    kind: str

    @property
    def vocab_size(self) -> int:
        """Tokens, special ones included."""

    @property
    def bos(self) -> int:
        """The token that begins, and usually ends, a document."""

    def encode(self, text: str) -> np.ndarray:
        """int32 tokens of a text without BOS. Raises DataError with the character and its position."""

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The int32 tokens of all texts one after another, and how many each has. Raises DataError."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; special tokens have none."""

    def to_json(self) -> bytes:
        """The tokenizer.json that `read` and the `tokenizers` library open."""


def train(kind: str, texts: Iterable[str], **options: Any) -> Tokenizer:
    """A new tokenizer learnt from texts."""
    from microgpt.tokenizers.char import Char

    assert kind == "char", kind
    return Char.train(texts)


def read(data: bytes, where: str) -> Tokenizer:
    """A tokenizer from the bytes of a tokenizer.json. Raises CheckpointError."""
    from microgpt.tokenizers.char import Char

    content = parse_json(data, where)
    try:
        kind = content["model"]["type"]
        if kind == "WordLevel":
            return Char.from_dict(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where}: not a tokenizer that this version reads ({error!r})") from None
    raise CheckpointError(f"{where}: a tokenizer of type {kind!r}; this version reads character tokenizers")
