"""Byte-pair encoding in three variants, which differ in the alphabet and in the pieces that no merge crosses.

bpe        bytes; pieces by GPT-2's pattern; most frequent pair, then smallest; never meets an unknown character
bpe-vidya  characters; a document is a piece, spaces included; a pair counts from 2; the first in the text wins
bpe-words  characters and an end mark (a space here) on each word; words are pieces; the first word's pair wins

All three are encoded by `tiktoken`, which merges by the rank of a token's bytes. That equals merging pairs in the
order of learning as long as each token's own bytes encode to it alone, which `from_dict` checks and training entails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from microgpt.tokenizers import UNK, bpe_train
from microgpt.tokenizers.base import UNKNOWN, Base, Size, halved, replace, split, split_vocab
from microgpt.tokenizers.bpe_train import END_MARK, MAX_LENGTH, Pair
from microgpt.tokenizers.byte_letters import BYTES, LETTERS
from microgpt.tokenizers.word import SPACES, charset, portable

if TYPE_CHECKING:
    import tiktoken

LAST_RANK = 2**62  # after all others

# GPT-2's pieces, written so that no run of letters or spaces is tried twice.
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
SPACE = f"[{charset(SPACES)}]+"
WORDS = r"[^ ]+ "

PATTERNS = {"bpe": GPT2, "bpe-vidya": r"(?s:.)++", "bpe-words": r"[^ ]++ "}  # the pieces, for tiktoken


class Bpe(Base):
    """A BPE tokenizer: the alphabet's tokens, one token per merge, then the special ones."""

    takes = ("vocab_size", "merges")

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
    def train(cls, kind: str, texts: Iterable[str], special: Sequence[str], vocab_size: Size, merges: Size) -> Self:
        """Merges learnt from documents; fewer than asked for if no pair is left. Raises DataError, UsageError."""
        return cls(kind, *bpe_train.train(kind, texts, len(special), vocab_size, merges), special)

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
        pattern = PATTERNS[self.kind]
        return tiktoken.Encoding(self.kind, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}), ids

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
            found = [encoder.encode_ordinary(self._plain(text)) for text in texts]  # faster for short texts
        except ValueError:
            return super().encode_batch(texts, unk=unk)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        tokens = ids[np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum()))]
        if len(tokens) and tokens.min() == UNKNOWN:
            return super().encode_batch(texts, unk=unk)
        return tokens, lengths

    def normalize(self, text: str) -> str:
        return " ".join(text.split()) if self.kind == "bpe-words" else text

    def unknown_parts(self, text: str) -> list[str]:
        if self.kind == "bpe":
            return []
        alphabet = set(self.names[: self.n_alphabet])
        return [char for char in self._plain(text) if char not in alphabet]

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

    @staticmethod
    def reads(file: dict[str, Any]) -> bool:
        return file["model"]["type"] == "BPE"

    @classmethod
    def from_dict(cls, file: dict[str, Any]) -> Self:
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
        across = order.get((lefts[-1], rights[-1]), LAST_RANK)
        next_left = lefts[-2] if len(lefts) > 1 else LAST_RANK
        next_right = rights[-2] if len(rights) > 1 else LAST_RANK
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
