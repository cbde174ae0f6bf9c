"""A data section → its documents or conversations, their tokenizer, their tokens: the one loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from microgpt.config import Data
from microgpt.data import chat_corpus, corpus
from microgpt.data.conversations import Chats, is_chat, read_chats
from microgpt.data.corpus import Corpus
from microgpt.data.documents import Documents, read_documents
from microgpt.data.encode import encode, learn
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenizedData:
    """Text that was read, its tokenizer, and the ways to make a corpus of its tokens."""

    documents: Documents | Chats
    tokenizer: Tokenizer
    split: Callable[[Random, float], Corpus]  # shuffles and holds out a share; DataError if too little is left
    held_out: Callable[[], Corpus]  # all of the text held out, to measure on


def load(
    data: Data,
    block_size: int,
    tokenizer: Tokenizer | None = None,
    progress: ProgressCallback = no_progress,
    *,
    verify: bool = False,
) -> TokenizedData:
    """Read a data section, learn its tokenizer unless one is given, and tokenize everything.

    With `verify` no file counts as known by its size and time.

    Raises UsageError, DataError, MachineError, OSError.
    """
    if is_chat(data):
        chats = read_chats(data)
        tokenizer = tokenizer or learn(data, chats.texts, sum(map(len, chats.texts)), roles=True)
        rows = chats, chat_corpus.tokenize_chats(chats, tokenizer, block_size, data), tokenizer
        split, held_out = partial(chat_corpus.build, *rows, data), partial(chat_corpus.all_held_out, *rows)
        return TokenizedData(chats, tokenizer, split, held_out)
    documents = read_documents(data)
    tokenizer, encoded = encode(documents, tokenizer, progress, verify=verify)
    return TokenizedData(
        documents,
        tokenizer,
        partial(corpus.build, documents, encoded),
        partial(corpus.all_held_out, documents, encoded),
    )
