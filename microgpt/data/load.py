"""A data section → its documents or conversations, their tokenizer, their tokens: the one loader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random

from microgpt.config import Data
from microgpt.data import chat_corpus, corpus
from microgpt.data.chat_template import Row
from microgpt.data.conversations import Chats, is_chat, read_chats
from microgpt.data.corpus import Corpus
from microgpt.data.documents import Documents, read_documents
from microgpt.data.encode import Encoded, encode, learn
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import Tokenizer


class TokenizedData(ABC):
    """Text that was read, its tokenizer, and its tokens; `split` makes a corpus of it."""

    documents: Documents | Chats
    tokenizer: Tokenizer

    @abstractmethod
    def split(self, rng: Random, val_fraction: float) -> Corpus:
        """Shuffle with `rng` and hold out a share of the text. Raises DataError if too little is left to train on."""

    @abstractmethod
    def held_out(self) -> Corpus:
        """All of the text held out, to measure on."""


@dataclass(frozen=True)
class TokenizedDocuments(TokenizedData):
    """Documents and their tokens."""

    documents: Documents
    tokenizer: Tokenizer
    encoded: Encoded

    def split(self, rng: Random, val_fraction: float) -> Corpus:
        return corpus.build(self.documents, self.encoded, self.tokenizer.bos, rng, val_fraction=val_fraction)

    def held_out(self) -> Corpus:
        return corpus.all_held_out(self.documents, self.encoded, self.tokenizer.bos)


@dataclass(frozen=True)
class TokenizedChats(TokenizedData):
    """Conversations and the rows of each."""

    documents: Chats
    tokenizer: Tokenizer
    rows: list[list[Row]]

    def split(self, rng: Random, val_fraction: float) -> Corpus:
        return chat_corpus.build(self.documents, self.rows, self.tokenizer, rng, val_fraction=val_fraction)

    def held_out(self) -> Corpus:
        return chat_corpus.all_held_out(self.documents, self.rows, self.tokenizer)


def load(
    data: Data, block_size: int, tokenizer: Tokenizer | None = None, progress: ProgressCallback = no_progress
) -> TokenizedData:
    """Read a data section, learn its tokenizer unless one is given, and tokenize everything.

    Raises UsageError, DataError, MachineError, OSError.
    """
    if is_chat(data):
        chats = read_chats(data)
        tokenizer = tokenizer or learn(data, chats.texts, roles=True)
        return TokenizedChats(chats, tokenizer, chat_corpus.tokenize_chats(chats, tokenizer, block_size, data))
    documents = read_documents(data)
    return TokenizedDocuments(documents, *encode(documents, tokenizer, progress))
