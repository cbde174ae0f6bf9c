"""Conversations as rows of tokens with a mask of the scored ones, and the order in which they are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

from microgpt.config import Data
from microgpt.data import chat_template
from microgpt.data.chat_template import Row
from microgpt.data.conversations import Chats, Conversation
from microgpt.data.split import split
from microgpt.data.text_size import TextSize
from microgpt.errors import DataError, UsageError
from microgpt.feed import Feed
from microgpt.tokenizers import Tokenizer

EVAL_ROWS = 64  # rows per step of an evaluation


@dataclass(frozen=True)
class ChatCorpus:
    """All rows of all conversations, in the order of training: rows of the same conversation one after another."""

    chats: Chats
    tokens: np.ndarray  # int32 (N,)
    offsets: np.ndarray  # int64 (rows + 1,)
    scored: np.ndarray  # bool (N,)
    order: np.ndarray  # int64 (rows,): the conversation, counted from 0 in the text, of each row
    n_train: int  # rows trained on, the first ones; the rest is held out
    held_out_size: TextSize  # of the scored text of the held-out rows

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        return len(self.order)

    @property
    def n_held_out(self) -> int:
        return len(self.order) - self.n_train

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens, of where rows begin, of what is scored and of the order."""
        digest = hashlib.sha256(str(self.n_train).encode())
        for numbers, dtype in ((self.tokens, "<i4"), (self.offsets, "<i8"), (self.scored, "?"), (self.order, "<i8")):
            digest.update(np.ascontiguousarray(numbers, dtype).data)
        return digest.hexdigest()

    def mean_row(self, block_size: int) -> float:
        return float(np.minimum(np.diff(self.offsets) - 1, block_size).mean())

    def n_rows(self, block_size: int) -> int:
        return self.n_train

    def place(self, row: int, block_size: int) -> int:
        return int(self.order[row % self.n_train])

    def feed(self, first_step: int, n_steps: int, rows: int, block_size: int) -> Feed:
        at = np.arange(first_step * rows, (first_step + n_steps) * rows) % self.n_train
        return self._rows(at, np.arange(0, n_steps * rows + 1, rows), first_step)

    def held_out(self, block_size: int) -> Iterator[Feed]:
        at = np.arange(self.n_train, self.n_documents)
        if len(at):
            yield self._rows(at, np.append(np.arange(0, len(at), EVAL_ROWS), len(at)), 0)

    def example_prompt(self, rng: Random) -> Conversation:
        """A conversation of the text up to its first answer."""
        conversation = rng.choice(self.chats.conversations)
        return conversation[: next(i for i, message in enumerate(conversation) if message.role == "assistant")]

    def contains(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is an answer in a conversation that is trained on."""
        trained = {int(place) for place in self.order[: self.n_train]}
        answers = {
            message.content.strip()
            for place in trained
            for message in self.chats.conversations[place]
            if message.role == "assistant"
        }
        return [text.strip() in answers for text in texts]

    def _rows(self, rows: np.ndarray, steps: np.ndarray, first_step: int) -> Feed:
        begins = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begins
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
        return Feed(self.tokens[at], offsets, steps.astype(np.int64), self.scored[at], first_step)


def tokenize_chats(chats: Chats, tokenizer: Tokenizer, block_size: int, data: Data) -> list[list[Row]]:
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
            groups.append(list(chat_template.rows(conversation, tokenizer, block_size, score=data.score, unk=data.unk)))
        except DataError as error:
            raise DataError(f"{place}: {error}", error.code) from None
    longer = sum(len(group) > 1 for group in groups)
    full = sum(len(row.tokens) > block_size for group in groups for row in group)
    if longer:
        chats.notes.append(f"{chats.source}: {longer:,} conversations exceed the context and take several rows")
    if full:
        chats.notes.append(f"{chats.source}: {full:,} rows end at the context length, within an answer")
    return groups


def build(
    chats: Chats,
    groups: Sequence[Sequence[Row]],
    tokenizer: Tokenizer,
    data: Data,
    rng: Random,
    val_fraction: float,
) -> ChatCorpus:
    """Shuffle conversations with `rng` and hold some out with all their rows, see `split`.

    `groups` holds the rows of each conversation. Raises DataError if too few are left to train on.
    """
    sizes = np.array([sum(len(message.content.encode()) for message in talk) for talk in chats.conversations])
    train, held = split(range(len(groups)), sizes, data, rng, val_fraction)
    if not len(train) or (val_fraction and not len(held)):
        raise DataError(
            f"{len(groups)} conversations are too few to hold out {val_fraction:.0%} of them; set --val-fraction 0"
        )
    return _in_order(chats, groups, tokenizer, [*train.tolist(), *held.tolist()], len(train))


def all_held_out(chats: Chats, groups: Sequence[Sequence[Row]], tokenizer: Tokenizer) -> ChatCorpus:
    """A corpus to measure on: every conversation is held out, in the text's order."""
    return _in_order(chats, groups, tokenizer, list(range(len(groups))), 0)


def _in_order(
    chats: Chats, groups: Sequence[Sequence[Row]], tokenizer: Tokenizer, order: list[int], n_train: int
) -> ChatCorpus:
    placed = [(place, row) for place in order for row in groups[place]]
    n_rows = sum(len(groups[place]) for place in order[:n_train])
    return ChatCorpus(
        chats,
        np.array([token for _, row in placed for token in row.tokens], dtype=np.int32),
        np.cumsum([0, *(len(row.tokens) for _, row in placed)], dtype=np.int64),
        np.array([flag for _, row in placed for flag in row.scored], dtype=bool),
        np.array([place for place, _ in placed], dtype=np.int64),
        n_rows,
        _scored_size([row for _, row in placed[n_rows:]], tokenizer),
    )


def _scored_size(rows: Sequence[Row], tokenizer: Tokenizer) -> TextSize:
    """The size of the scored text of some rows."""
    unk = tokenizer.special.get("unk")
    text, unknown, n_unk = "", "", 0
    for row in rows:
        scored = [i for i, flag in enumerate(row.scored) if flag]
        tokens = [row.tokens[i] for i in scored]
        text += tokenizer.decode(tokens)
        unknown += "".join([row.unknown[i] for i in scored])
        n_unk += tokens.count(unk) if unk is not None else 0
    whole = text + unknown if unk is not None else text
    return TextSize(len(whole.encode()), len(whole), len(unknown.encode()), n_unk)
