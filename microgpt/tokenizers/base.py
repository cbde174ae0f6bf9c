"""The base of all tokenizers: special tokens after the vocabulary, decoding, and the frame of tokenizer.json."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np

from microgpt.errors import DataError
from microgpt.files import to_json

UNKNOWN = -1

Size = int | None
"""A number of tokens or merges; None for the default."""

Glue = Callable[[int, int], bytes]
"""The bytes between two neighbouring tokens in a text."""


def content(name: str) -> str:
    """A special token's text in tokenizer.json."""
    return f"<{name}>"


class Stream:
    """Tokens in, text out as soon as its characters are complete."""

    def __init__(self, pieces: list[bytes], n_vocab: int, glue: Glue | None) -> None:
        self._pieces, self._n_vocab, self._glue = pieces, n_vocab, glue
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._last: int | None = None

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that is complete so far. Raises DataError for a number that is no token."""
        ids = tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)
        if ids and not 0 <= min(ids) <= max(ids) < len(self._pieces):
            at, bad = next((i, t) for i, t in enumerate(ids) if not 0 <= t < len(self._pieces))
            raise DataError(f"{bad} at position {at + 1} is no token; expected 0 to {len(self._pieces) - 1}")
        if self._glue:
            return self._utf8.decode(b"".join(map(self._glued, ids)))
        return self._utf8.decode(b"".join(map(self._pieces.__getitem__, ids)))

    def _glued(self, token: int) -> bytes:
        if token >= self._n_vocab:
            return b""
        last, self._last = self._last, token
        assert self._glue
        return (b"" if last is None else self._glue(last, token)) + self._pieces[token]

    def end(self) -> str:
        """The rest; a character that was never finished shows as U+FFFD."""
        return self._utf8.decode(b"", final=True)


class Base:
    """A tokenizer of `pieces` (the bytes of each vocabulary token) and special tokens after them, BOS last."""

    kind: str
    takes: tuple[str, ...] = ()
    """The options of `train` that say how many tokens to learn: vocab_size, merges."""
    glue: Glue | None = None

    @classmethod
    def train(cls, kind: str, texts: Iterable[str], special: Sequence[str], vocab_size: Size, merges: Size) -> Self:
        """A tokenizer of this kind learnt from documents. Raises DataError, UsageError."""
        raise NotImplementedError

    @staticmethod
    def reads(file: dict[str, Any]) -> bool:
        """Whether a tokenizer.json is one of this class. Raises KeyError, TypeError or ValueError."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, file: dict[str, Any]) -> Self:
        """Read back a file that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        raise NotImplementedError

    def to_json(self) -> bytes:
        """The tokenizer.json that `read` and the `tokenizers` library open."""
        raise NotImplementedError

    def __init__(self, pieces: Iterable[bytes], special: Sequence[str]) -> None:
        if special[-1] != "bos" or len(set(special)) != len(special):
            raise ValueError("special tokens must occur once each, BOS last")
        self.pieces = list(pieces)
        self.n_vocab = len(self.pieces)
        self.special = {name: self.n_vocab + i for i, name in enumerate(special)}
        self.pieces += [b""] * len(special)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def bos(self) -> int:
        return self.special["bos"]

    def encode(self, text: str, *, unk: bool = False) -> np.ndarray:
        raise NotImplementedError

    def encode_batch(self, texts: list[str], *, unk: bool = False) -> tuple[np.ndarray, np.ndarray]:
        found = [self.encode(text, unk=unk) for text in texts]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.concatenate(found) if found else np.zeros(0, np.int32), lengths

    def decode(self, tokens: Iterable[int]) -> str:
        stream = self.stream()
        return stream.feed(tokens) + stream.end()

    def normalize(self, text: str) -> str:
        return text

    def unknown_parts(self, text: str) -> list[str]:
        return []

    def stream(self) -> Stream:
        return Stream(self.pieces, self.n_vocab, self.glue)

    def token(self, token: int) -> str:
        if token >= self.n_vocab:
            return content(list(self.special)[token - self.n_vocab])
        return self.pieces[token].decode("utf-8", "backslashreplace")

    def merge_table(self) -> list[tuple[int, int]]:
        return []

    def unknown(self, text: str, position: int) -> DataError:
        """The error for a character or word that the vocabulary lacks; positions count from 1."""
        if bad := re.search("[\ud800-\udfff]", text):
            return halved(bad[0], position + bad.start())
        shown = text if len(text) <= 40 else text[:39] + "…"
        return DataError(
            f"{'character' if len(text) == 1 else 'word'} {shown!r} at position {position} is not in this tokenizer's "
            f"vocabulary ({self.sketch()}); leave it out, or train on text that has it or with --unk",
            "E_UNKNOWN_TOKEN",
        )

    def sketch(self) -> str:
        """The vocabulary in short, for errors."""
        return f"{self.n_vocab:,} tokens"

    def document(
        self,
        tokens: Iterable[str],
        *,
        model: dict[str, Any],
        normalizer: dict[str, Any] | None = None,
        pre_tokenizer: dict[str, Any] | None,
        decoder: dict[str, Any],
    ) -> bytes:
        """tokenizer.json around a model; `tokens` are the vocabulary's own."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        vocab = {token: i for i, token in enumerate(tokens)}
        vocab.update((content(name), i) for name, i in self.special.items())
        return to_json(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [{"id": i, "content": content(name), **flags} for name, i in self.special.items()],
                "normalizer": normalizer,
                "pre_tokenizer": pre_tokenizer,
                "post_processor": None,
                "decoder": decoder,
                "model": {key: vocab if key == "vocab" else value for key, value in model.items()},
            }
        )


def split_vocab(file: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The vocabulary's own tokens by id, and the names of the special ones. Raises KeyError, TypeError, ValueError."""
    vocab: dict[str, int] = file["model"]["vocab"]
    special = [str(token["content"])[1:-1] for token in file["added_tokens"]]
    n = len(vocab) - len(special)
    if not special or n < 1 or [vocab.get(content(name)) for name in special] != list(range(n, len(vocab))):
        raise ValueError("special tokens must come after the vocabulary")
    if any(not name.isidentifier() for name in special):
        raise ValueError("a special token's name")
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[token] for token in tokens] != list(range(len(vocab))):
        raise ValueError("ids must be 0, 1, 2, …")
    return tokens[:n], special


def halved(char: str, position: int) -> DataError:
    """The error for a surrogate; Python decodes bytes that are not UTF-8 to surrogates, too."""
    if "\udc80" <= char <= "\udcff":
        problem = f"byte 0x{ord(char) - 0xDC00:02x} at position {position} is not UTF-8; convert the text to UTF-8"
    else:
        problem = f"{char!r} at position {position} is half a character (a lone surrogate); leave it out"
    return DataError(problem, "E_UNKNOWN_TOKEN")


def bos_first(bos: int) -> dict[str, Any]:
    """The post-processor of an exported tokenizer.json: it puts BOS before a text, as our commands do themselves."""
    first, text = {"SpecialToken": {"id": content("bos"), "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {content("bos"): {"id": content("bos"), "ids": [bos], "tokens": [content("bos")]}},
    }


def split(pattern: str, behavior: str = "Isolated", *, invert: bool = False) -> dict[str, Any]:
    """A Split pre-tokenizer of tokenizer.json."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def replace(pattern: str, by: str) -> dict[str, Any]:
    """A Replace normalizer or decoder of tokenizer.json."""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": by}
