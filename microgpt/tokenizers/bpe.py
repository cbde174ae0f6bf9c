"""Byte-pair encoding, three ways: what is the alphabet, and which pieces does no merge cross?

bpe        bytes; pieces by GPT-2's pattern; most frequent pair, then smallest; never meets an unknown character
bpe-vidya  characters; a document is a piece, spaces included; a pair counts from 2; the first in the text wins
bpe-words  characters and an end mark (a space here) on each word; words are pieces; the first word's pair wins

All three are encoded by `tiktoken`, which knows tokens by their bytes and merges by rank. That is the same as
merging pairs in the order of learning as long as each token's own bytes encode to it alone, which `from_dict`
checks and training entails.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from microgpt.errors import DataError, UsageError
from microgpt.tokenizers import UNK
from microgpt.tokenizers.base import UNKNOWN, Base, halved, replace, split, split_vocab
from microgpt.tokenizers.word import SPACES, charset, portable

if TYPE_CHECKING:
    import tiktoken

Pair = tuple[int, int]

MAX_LENGTH = 128  # of a token, in characters or bytes: no merge makes a longer one
MAX_MERGES = 16_000  # where all pairs are counted in one table
NEVER = 2**62  # a rank after all others

# GPT-2's pieces, written so that no run of letters or spaces is tried twice.
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
SPACE = f"[{charset(SPACES)}]+"
WORDS = r"[^ ]+ "
END_MARK = "</w>"  # as it is shown and sorted

# For learning, runs that would make one huge piece are cut; so is the text of a special token, that no merge makes it.
CUTS = re.compile(r"(\S{1024}|\s{1024})|(?<=<)(?=(?:bos|unk|user|assistant|system|end_turn)>)")


class Way(NamedTuple):
    """One of the three: its pattern for tiktoken, its rule of learning, and how many merges unless told."""

    pattern: str
    minimum: int
    merges: int


WAYS = {
    "bpe": Way(GPT2, 2, 4096 - 257),
    "bpe-vidya": Way(r"(?s:.)++", 2, 500),
    "bpe-words": Way(r"[^ ]++ ", 1, 1000),
}


def byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte, in the order of its ids: what prints as itself, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


LETTERS = byte_letters()
BYTES = {letter: byte for byte, letter in LETTERS.items()}


class Bpe(Base):
    """A BPE tokenizer: the alphabet's tokens, one token a merge, then the special ones."""

    def __init__(
        self, kind: str, alphabet: Sequence[str], merges: Sequence[Pair], special: Sequence[str] = ("bos",)
    ) -> None:
        self.kind = kind
        self.merges = [(left, right) for left, right in merges]
        self.n_alphabet = len(alphabet)
        self.names = list(alphabet)
        for left, right in self.merges:
            self.names.append(self.names[left] + self.names[right])
        if len(set(self.names)) != len(self.names):
            raise ValueError("two tokens with the same text")
        if kind == "bpe":
            pieces = [bytes(BYTES[letter] for letter in name) for name in self.names]
        else:
            pieces = [name.encode() for name in self.names]
        if kind == "bpe-words":  # the space stands between two words, not after the last
            self._ends = [name.endswith(" ") for name in self.names]
            pieces = [piece.removesuffix(b" ") for piece in pieces]
            self.glue = self._space
        super().__init__(pieces, special)

    def _space(self, last: int, token: int) -> bytes:
        return b" " if self._ends[last] else b""

    @classmethod
    def train(
        cls,
        kind: str,
        texts: Iterable[str],
        special: Sequence[str] = ("bos",),
        *,
        vocab_size: int | None = None,
        merges: int | None = None,
    ) -> Bpe:
        """Merges learnt from documents; fewer than asked for if no pair is left. Raises DataError, UsageError."""
        pieces = (piece for text in texts for piece in CUTS.split(text) if piece)
        if kind == "bpe":
            alphabet = list(LETTERS.values())
            return cls(kind, alphabet, _by_library(pieces, _wanted(kind, 256, special, vocab_size, merges)), special)
        return _by_first(kind, pieces, special, vocab_size, merges)

    @cached_property
    def _encoder(self) -> tuple[tiktoken.Encoding, np.ndarray]:
        """tiktoken's encoder, and the token of each of its ranks (UNKNOWN for parts of characters).

        It starts from single bytes, so where the alphabet is characters, their bytes are merged before all else.
        """
        import tiktoken

        ranks = {bytes([byte]): byte for byte in range(256)}
        if self.kind == "bpe":
            ranks = {piece: i for i, piece in enumerate(self.pieces[: self.n_vocab])}
            ids = np.arange(self.n_vocab, dtype=np.int32)
        else:
            spelled = [name.encode() for name in self.names]
            for character in spelled[: self.n_alphabet]:
                for end in range(2, len(character) + 1):
                    ranks.setdefault(character[:end], len(ranks))
            for piece in spelled[self.n_alphabet :]:
                ranks[piece] = len(ranks)
            ids = np.full(len(ranks), UNKNOWN, np.int32)
            ids[[ranks[piece] for piece in spelled]] = np.arange(self.n_vocab)
        way = WAYS[self.kind]
        return tiktoken.Encoding(self.kind, pat_str=way.pattern, mergeable_ranks=ranks, special_tokens={}), ids

    @cached_property
    def _library(self) -> Any:
        """The `tokenizers` library with this vocabulary, for the rare piece that is too long for tiktoken's regex."""
        from tokenizers import Tokenizer

        library = Tokenizer.from_str(self.to_json().decode())
        library.encode_special_tokens = True  # a special token's text is text
        return library

    def encode(self, text: str, *, unk: bool = False) -> np.ndarray:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise halved(text[error.start], error.start + 1) from None
        encoder, ids = self._encoder
        try:
            ranks = encoder.encode_to_numpy(self._plain(text), disallowed_special=())
        except ValueError:  # a run of spaces that its regex cannot go back over
            return np.array(self._library.encode(text, add_special_tokens=False).ids, np.int32)
        found = ids[ranks]
        if len(found) and found.min() == UNKNOWN:
            return self._with_unknown(text, unk)
        return found

    def encode_batch(self, texts: list[str], *, unk: bool = False) -> tuple[np.ndarray, np.ndarray]:
        encoder, ids = self._encoder
        try:
            "".join(texts).encode()
            found = [encoder.encode_ordinary(self._plain(text)) for text in texts]  # for short texts the quicker way
        except ValueError:
            return super().encode_batch(texts, unk=unk)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        tokens = ids[np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum()))]
        if len(tokens) and tokens.min() == UNKNOWN:
            return super().encode_batch(texts, unk=unk)
        return tokens, lengths

    def _plain(self, text: str) -> str:
        """The text that is cut into pieces: by words, each is followed by one space, its end mark."""
        return "".join([word + " " for word in text.split()]) if self.kind == "bpe-words" else text

    def _with_unknown(self, text: str, unk: bool) -> np.ndarray:
        """The tokens of a text that has characters outside the alphabet."""
        alphabet = set(self.names[: self.n_alphabet])
        marked = self.kind == "bpe-words"
        strange = [char not in alphabet and not (marked and char.isspace()) for char in text]
        if "unk" not in self.special:
            if not unk:
                at = strange.index(True)
                raise self.unknown(text[at], at + 1)
            return self.encode("".join(char for char, bad in zip(text, strange, strict=True) if not bad))
        encoder, ids = self._encoder
        found = [np.zeros(0, np.int32)]
        for known, stranger in re.findall(f"([{re.escape(''.join(alphabet))}]+)|(.)", self._plain(text), re.DOTALL):
            if stranger:
                found.append(np.array([self.special["unk"]], np.int32))
                continue
            # Beside a stranger a word is cut, so here a piece may lack its end mark.
            for piece in re.findall("[^ ]* |[^ ]+", known) if marked else [known]:
                found.append(ids[encoder._encode_single_piece(piece)])
        return np.concatenate(found)

    def token(self, token: int) -> str:
        if self.kind == "bpe-words" and token < self.n_vocab:
            return self.names[token].replace(" ", END_MARK)
        return super().token(token)

    def merge_table(self) -> list[Pair]:
        return self.merges

    def sketch(self) -> str:
        shown = "".join(self.names[: self.n_alphabet])
        return f"{self.n_alphabet} characters: {shown if len(shown) <= 40 else shown[:37] + '…'!r}"

    def to_json(self) -> bytes:
        """The tokenizer.json that `read` and the `tokenizers` library open."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        fuse = {"type": "Fuse"}
        normalizer: dict[str, Any] | None = None
        pre_tokenizer: dict[str, Any] | None = None
        decoder: dict[str, Any] = fuse
        if self.kind == "bpe":
            pre_tokenizer, decoder = byte_level, byte_level
        if self.kind == "bpe-words":
            strip = {"type": "Strip", "strip_left": True, "strip_right": True}
            folded = [replace(portable(SPACE), " "), strip, replace(r"\z", " ")]
            normalizer = {"type": "Sequence", "normalizers": folded}
            pre_tokenizer = split(WORDS)
            decoder = {"type": "Sequence", "decoders": [fuse, replace(r" \z", "")]}
        return self.document(
            self.names,
            normalizer=normalizer,
            pre_tokenizer=pre_tokenizer,
            decoder=decoder,
            model={
                "type": "BPE",
                "dropout": None,
                "unk_token": UNK if "unk" in self.special else None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {},
                "merges": [[self.names[left], self.names[right]] for left, right in self.merges],
            },
        )

    @classmethod
    def from_dict(cls, file: dict[str, Any]) -> Bpe:
        """Read back what `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        names, special = split_vocab(file)
        if len(max(names, key=len)) > MAX_LENGTH:
            raise ValueError(f"a token of more than {MAX_LENGTH} characters")
        splits = file["pre_tokenizer"]
        kind = "bpe-vidya" if splits is None else "bpe" if splits["type"] == "ByteLevel" else "bpe-words"
        ids = {name: i for i, name in enumerate(names)}
        merges = [(ids[left], ids[right]) for left, right in file["model"]["merges"]]
        n_alphabet = len(names) - len(merges)
        if n_alphabet < 1 or any(len(name) != 1 for name in names[:n_alphabet]):
            raise ValueError("the alphabet must be single characters")
        if kind == "bpe" and names[:n_alphabet] != list(LETTERS.values()):
            raise ValueError("the alphabet must be the 256 bytes")
        parts = dict(enumerate(merges, n_alphabet))
        order = {pair: token for token, pair in parts.items()}
        for token, (left, right) in parts.items():
            if max(left, right) >= token or names[left] + names[right] != names[token]:
                raise ValueError(f"token {token} is not its two parts")
            if _crossed(left, right, parts, order):
                raise ValueError(f"the merges before token {token} do not lead to its two parts")
        return cls(kind, names[:n_alphabet], merges, special)


def _crossed(left: int, right: int, parts: dict[int, Pair], order: dict[Pair, int]) -> bool:
    """Whether encoding the text of two tokens merges across the border between them before both are whole.

    At the border stand ever larger parts of the two. The next to grow is the one whose larger part has the lower
    rank, unless the pair across has a rank still lower; where the ranks are equal, the leftmost pair goes first.
    """
    lefts, rights = _spine(left, 1, parts), _spine(right, 0, parts)
    while len(lefts) + len(rights) > 2:
        across = order.get((lefts[-1], rights[-1]), NEVER)
        next_left = lefts[-2] if len(lefts) > 1 else NEVER
        next_right = rights[-2] if len(rights) > 1 else NEVER
        if across < next_left and across <= next_right:
            return True
        (lefts if next_left <= next_right else rights).pop()
    return False


def _spine(token: int, side: int, parts: dict[int, Pair]) -> list[int]:
    """A token, its first (side 0) or last (side 1) part, that one's, and so on down to the alphabet."""
    spine = [token]
    while spine[-1] in parts:
        spine.append(parts[spine[-1]][side])
    return spine


def _wanted(kind: str, n_alphabet: int, special: Sequence[str], vocab_size: int | None, merges: int | None) -> int:
    """How many merges to learn."""
    if vocab_size is not None:
        merges = vocab_size - n_alphabet - len(special)
        if merges < 0:
            least = n_alphabet + len(special)
            raise UsageError(f"vocab_size: {vocab_size} has no room for the alphabet; expected at least {least}")
    wanted = WAYS[kind].merges if merges is None else merges
    if wanted < 0:
        raise UsageError(f"merges: {wanted} is negative; expected 0 or more")
    if kind != "bpe" and wanted > MAX_MERGES:
        raise UsageError(f"merges: {wanted:,} are too many for {kind}; expected at most {MAX_MERGES:,}, or choose bpe")
    return wanted


def _by_library(pieces: Iterator[str], merges: int) -> list[Pair]:
    """GPT-2's way, learnt by the `tokenizers` library: `reference.learn` with ties to the smallest pair."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        min_frequency=WAYS["bpe"].minimum,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_LENGTH,
        show_progress=False,
    )
    try:
        library.train_from_iterator(pieces, trainer)
    except UnicodeEncodeError as error:
        raise DataError(f"text with half a character (a lone surrogate): {error.reason}; leave it out") from None
    model = json.loads(library.to_str())["model"]
    return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


def _by_first(
    kind: str, pieces: Iterator[str], special: Sequence[str], vocab_size: int | None, merges: int | None
) -> Bpe:
    """Vidya's way and the way by words: `reference.learn` with ties to the first in the corpus."""
    from microgpt.tokenizers.bpe_train import BORDER, learn

    if kind == "bpe-words":
        counted = Counter(word + " " for piece in pieces for word in piece.split())
        corpus, occurs = list(counted), list(counted.values())
    else:
        corpus = list(pieces)
        occurs = [1] * len(corpus)
    if not corpus:
        raise DataError("no text to learn a vocabulary from; expected at least one character")
    try:
        # A border is written as U+FFFFFFFF, which no text has.
        points = np.frombuffer(b"\xff\xff\xff\xff".join(text.encode("utf-32-le") for text in corpus), np.uint32)
    except UnicodeEncodeError as error:
        raise DataError(f"text with half a character (a lone surrogate): {error.reason}; leave it out") from None
    characters = {chr(point) for point in np.unique(points).tolist() if point < 2**32 - 1}
    alphabet = sorted(characters, key=lambda char: END_MARK if kind == "bpe-words" and char == " " else char)
    n = len(alphabet)
    wanted = _wanted(kind, n, special, vocab_size, merges)
    by_point = np.argsort([ord(char) for char in alphabet])
    known = np.sort([ord(char) for char in alphabet]).astype(np.uint32)
    tokens = np.append(by_point, BORDER)[np.searchsorted(known, points)].astype(np.int32)
    sizes = np.fromiter(map(len, corpus), np.int64) + 1  # the border after a piece goes with it
    weights = np.repeat(np.array(occurs, np.int64), sizes)[:-1]
    lengths = np.ones(n + wanted, np.int32)
    return Bpe(kind, alphabet, learn(tokens, weights, lengths, n, WAYS[kind].minimum, MAX_LENGTH).tolist(), special)
