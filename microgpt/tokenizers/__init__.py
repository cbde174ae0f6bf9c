"""Text to tokens and back: one interface, one file format (tokenizer.json of the `tokenizers` library)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from microgpt.errors import CheckpointError, DataError, UsageError
from microgpt.files import LARGE, parse_json

if TYPE_CHECKING:
    from microgpt.tokenizers.base import Base

BOS = "<bos>"
UNK = "<unk>"
ROLES = ("user", "assistant", "system", "end_turn")

# The file name is the registry: a kind X or X-Y is the class of microgpt/tokenizers/X.py, imported when it is used.
KINDS = {
    "char": "one token per character",
    "word": "one token per word, punctuation mark and space",
    "word-lossy": "the same without the spaces",
    "bpe": "merges of bytes within GPT-2's pieces",
    "bpe-vidya": "merges of characters within whole documents, spaces included",
    "bpe-words": "merges of characters within words, an end mark on each",
}

MAX_BYTES = LARGE  # of a tokenizer.json
MAX_TOKENS = 2**20  # of a vocabulary


class TextStream(Protocol):
    """Tokens in, text out as soon as its characters are complete."""

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that is complete so far. Raises DataError for a number that is no token."""

    def end(self) -> str:
        """The rest; a character that was never finished shows as U+FFFD."""


class Tokenizer(Protocol):
    """The interface of a tokenizer.

    Ids are the vocabulary from 0, then the special tokens in `special`, BOS last. No text encodes to a special
    token but `unk`, and that one only for a character or word that the vocabulary lacks.
    """

    kind: str
    special: dict[str, int]
    """By name: bos, and where there are some user, assistant, system, end_turn, unk."""

    @property
    def vocab_size(self) -> int:
        """Tokens, special ones included."""

    @property
    def bos(self) -> int:
        """The token that begins, and usually ends, a document."""

    def encode(self, text: str, *, unk: bool = False) -> np.ndarray:
        """int32 tokens of a text without BOS.

        What the vocabulary lacks becomes <unk> if the tokenizer was trained with one; else it is left out if
        `unk` is true; else DataError names it and its position.
        """

    def encode_batch(self, texts: list[str], *, unk: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """All texts as one flat int32 array, and the int64 number of tokens per text. Raises as `encode`."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; special tokens have none. Raises DataError for a number that is no token."""

    def normalize(self, text: str) -> str:
        """The text that tokens of a text stand for: the text, or without the spaces that this kind does not keep."""

    def unknown_parts(self, text: str) -> list[str]:
        """The characters or words of a text that the vocabulary lacks, in order; each is one <unk> if there is one."""

    def stream(self) -> TextStream:
        """A decoder for tokens that arrive one by one."""

    def token(self, token: int) -> str:
        """A token for display: special tokens by name, incomplete characters as their bytes."""

    def merge_table(self) -> list[tuple[int, int]]:
        """The pairs of tokens that were merged, in the order of learning; empty unless the tokenizer is a BPE."""

    def to_json(self) -> bytes:
        """The tokenizer.json that `read` and the `tokenizers` library open, the same bytes for the same tokenizer."""


def train(
    kind: str,
    texts: Iterable[str],
    *,
    vocab_size: int | None = None,
    merges: int | None = None,
    roles: bool = False,
    unk: bool = False,
) -> Tokenizer:
    """A new tokenizer learnt from documents.

    vocab_size counts all tokens, special ones too; merges counts a BPE's merges: give one or none. roles adds
    the tokens of chats, unk one for what the vocabulary lacks. Raises UsageError, or DataError for empty text.
    """
    if kind not in KINDS:
        raise UsageError(f"tokenizer: no kind {kind!r}; expected one of {', '.join(KINDS)}")
    cls = _class(kind)
    for option, value in (("vocab_size", vocab_size), ("merges", merges)):
        if value is not None and option not in cls.takes:
            raise UsageError(f"{option}: not for a {kind} tokenizer; leave it out or choose bpe")
        if value is not None and not 0 <= value <= MAX_TOKENS:
            raise UsageError(f"{option}: must be 0 to {MAX_TOKENS:,}, got {value:,}")
    if vocab_size is not None and merges is not None:
        raise UsageError("vocab_size and merges both set the size of a BPE; give one of them")
    special = (*(["unk"] if unk else []), *(ROLES if roles else ()), "bos")
    return cls.train(kind, texts, special, vocab_size, merges)


def _class(kind: str) -> type[Base]:
    """The class of a kind: that of char, word or bpe in the file of its name."""
    family = kind.partition("-")[0]
    found: type[Base] = getattr(importlib.import_module(f"microgpt.tokenizers.{family}"), family.capitalize())
    return found


def read(data: bytes, where: str) -> Tokenizer:
    """A tokenizer from the bytes of a tokenizer.json. Raises CheckpointError.

    The file must equal the one that its tokenizer would write, or export: nothing in it is ignored, so no other
    program can read it to other ids.
    """
    from microgpt.tokenizers.base import bos_first

    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{where}: larger than {MAX_BYTES:,} bytes; not a tokenizer.json of microgpt")
    content = parse_json(data, where)
    try:
        if len(content["model"]["vocab"]) > MAX_TOKENS:
            raise ValueError(f"more than {MAX_TOKENS:,} tokens")
        tokenizer = _of(content)
        if content["post_processor"] == bos_first(tokenizer.bos):
            content["post_processor"] = None
        if difference := _difference(json.loads(tokenizer.to_json()), content):
            raise ValueError(f"{difference} is not as this version writes it")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, DataError) as error:
        reason = f"{error}" if isinstance(error, ValueError) else repr(error)
        raise CheckpointError(
            f"{where}: not a tokenizer that this version reads ({reason}); "
            "expected one written by `microgpt train` or `microgpt tokenizer train`"
        ) from None
    return tokenizer


def _of(content: dict[str, Any]) -> Tokenizer:
    for family in dict.fromkeys(kind.partition("-")[0] for kind in KINDS):
        if (cls := _class(family)).reads(content):
            return cls.from_dict(content)
    raise ValueError(f"a model of type {content['model']['type']!r}")


def _difference(ours: Any, theirs: Any, at: str = "") -> str:
    """The first place where two JSON values differ, as a path of keys; empty if none."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return next((found for key in ours if (found := _difference(ours[key], theirs[key], f"{at}.{key}"))), "")
    return "" if ours == theirs else at.lstrip(".")[:80] or "the file"
