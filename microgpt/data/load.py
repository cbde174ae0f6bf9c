"""A data section → its documents or conversations, their tokenizer, their tokens: the one loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from microgpt.config import Data
from microgpt.data import chat_corpus, corpus, sharded_corpus
from microgpt.data.bin_files import bin_files, open_files
from microgpt.data.chat_rows import encode_chats
from microgpt.data.conversations import Chats, is_chat
from microgpt.data.corpus import Corpus
from microgpt.data.documents import Documents, read_documents
from microgpt.data.encode import encode, learn
from microgpt.data.shards import Shards, is_folder, open_folder
from microgpt.errors import DataError
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import KINDS, Tokenizer


@dataclass(frozen=True)
class TokenizedData:
    """Text that was read, its tokenizer, and the ways to make a corpus of its tokens."""

    documents: Documents | Chats
    tokenizer: Tokenizer
    data: Data  # the section, where the text was tokenized before with the keys by which it was
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
    if source := _tokenized(data, tokenizer, verify):
        return TokenizedData(
            Documents([], source.data, str(data.path), source.notes),
            source.tokenizer,
            source.data,
            partial(sharded_corpus.split, source),
            partial(sharded_corpus.ShardedCorpus, source, 0, 1.0),
        )
    if is_chat(data):
        tokenizer, chats, rows = encode_chats(data, tokenizer, block_size, progress, verify=verify)
        split = partial(chat_corpus.build, chats, rows, data)
        held_out = partial(chat_corpus.all_held_out, chats, rows)
        return TokenizedData(chats, tokenizer, data, split, held_out)
    documents = read_documents(data)
    tokenizer, encoded = encode(documents, tokenizer, progress, verify=verify)
    return TokenizedData(
        documents,
        tokenizer,
        data,
        partial(corpus.build, documents, encoded),
        partial(corpus.all_held_out, documents, encoded),
    )


def names_tokens(data: Data) -> bool:
    """Whether a data section names tokens instead of a text."""
    return data.path is not None and (is_folder(Path(data.path)) or bool(bin_files(data.path)))


def _tokenized(data: Data, tokenizer: Tokenizer | None, verify: bool) -> Shards | None:
    """The shards that a data section names, if it names tokens instead of a text. Raises DataError."""
    if data.path and is_folder(Path(data.path)):
        found = open_folder(Path(data.path), data, verify=verify)
        if tokenizer and tokenizer.to_json() != found.tokenizer.to_json():
            raise DataError(f"{data.path}: its tokens are of another tokenizer than the model's; name the text instead")
        return found
    if data.path and (paths := bin_files(data.path)):
        if tokenizer is None and data.tokenizer in KINDS:
            raise DataError(f"{data.path}: tokens, without their tokenizer; name its tokenizer.json with --tokenizer")
        return open_files(paths, data, tokenizer or learn(data, (), 0), verify=verify)
    return None
