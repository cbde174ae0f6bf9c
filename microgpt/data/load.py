"""A data section as what a run trains on: its documents or conversations, their tokenizer, their rows."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from microgpt.config import Data
from microgpt.data import chat_template
from microgpt.data.chat_corpus import Dialogues, Mix, build_dialogues
from microgpt.data.conversations import Chats, is_chat, read_chats
from microgpt.data.corpus import Corpus, all_held_out, build
from microgpt.data.documents import Documents, shared
from microgpt.data.encode import Encoded, learn, load
from microgpt.errors import DataError, UsageError
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import Tokenizer

Rows = Corpus | Dialogues | Mix


@dataclass(frozen=True)
class Material:
    """Text that was read, and its tokens."""

    documents: Documents | Chats
    tokenizer: Tokenizer
    data: Data
    tokens: Encoded | list[list[chat_template.Row]]  # of documents, or the rows of each conversation

    def rows(self, rng: Random, val_fraction: float) -> Corpus | Dialogues:
        """What is trained on, shuffled with `rng`, and what is held out. Raises DataError if too little is left."""
        if isinstance(self.tokens, Encoded):
            joined = self.data.packing == "joined"
            around = shared(self.data)
            return build(self.tokens, self.tokenizer.bos, rng, val_fraction=val_fraction, joined=joined, shared=around)
        return build_dialogues(self.tokens, rng, self._n_bytes, val_fraction=val_fraction)

    def held_out(self) -> Corpus | Dialogues:
        """All of it, to measure on."""
        if isinstance(self.tokens, Encoded):
            return all_held_out(self.tokens, self.tokenizer.bos, joined=self.data.packing == "joined")
        return build_dialogues(self.tokens, None, self._n_bytes, val_fraction=1.0)

    def _n_bytes(self, tokens: list[int]) -> int:
        return len(self.tokenizer.decode(tokens).encode())


def read(
    data: Data, block_size: int, tokenizer: Tokenizer | None = None, progress: ProgressCallback = no_progress
) -> Material:
    """Read a data section, learn its tokenizer unless one is given, and encode everything.

    Raises UsageError, DataError, MachineError, OSError.
    """
    if not is_chat(data):
        return Material(*_documents(data, tokenizer, progress))
    chats = read_chats(data)
    tokenizer = tokenizer or learn(data, chats.texts, roles=True)
    return Material(chats, tokenizer, data, rows_of_chats(chats, tokenizer, block_size, data.score))


def _documents(
    data: Data, tokenizer: Tokenizer | None, progress: ProgressCallback
) -> tuple[Documents, Tokenizer, Data, Encoded]:
    documents, tokenizer, encoded = load(data, tokenizer, progress)
    return documents, tokenizer, data, encoded


def rows_of_chats(chats: Chats, tokenizer: Tokenizer, block_size: int, score: str) -> list[list[chat_template.Row]]:
    """The rows of each conversation. Raises UsageError for a model that cannot chat, DataError with file and line."""
    if not chat_template.can_chat(tokenizer):
        raise UsageError(f"{chats.source}: conversations need a tokenizer with roles, and this model's has none")
    if block_size < chat_template.SMALLEST_BLOCK:
        raise UsageError(
            f"--block-size: conversations need at least {chat_template.SMALLEST_BLOCK} tokens of context, "
            f"got {block_size}"
        )
    groups = []
    for place, conversation in zip(chats.places, chats.conversations, strict=True):
        try:
            groups.append(list(chat_template.rows(conversation, tokenizer, block_size, score=score)))
        except DataError as error:
            raise DataError(f"{place}: {error}", error.code) from None
    longer = sum(len(group) > 1 for group in groups)
    full = sum(len(row.tokens) > block_size for group in groups for row in group)
    if longer:
        chats.notes.append(f"{chats.source}: {longer:,} conversations are longer than the context: several rows each")
    if full:
        chats.notes.append(f"{chats.source}: {full:,} rows end with the context, before their answer does")
    return groups
