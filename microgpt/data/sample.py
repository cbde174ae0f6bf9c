"""Some rows of the text that a run was trained on, if it is still there. Nothing is downloaded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

from microgpt.config import Data
from microgpt.data import chat_template
from microgpt.data.conversations import is_chat, read_chats
from microgpt.data.documents import Documents
from microgpt.data.here import sources_of
from microgpt.errors import DataError
from microgpt.tokenizers import Tokenizer

LARGEST_CHATS = 64 << 20  # bytes of conversations, which are read at once


def sample_rows(data: Data, tokenizer: Tokenizer, block_size: int, positions: int) -> list[list[int]]:
    """Rows of up to `block_size` tokens, BOS first, until they have `positions` or more; the same at each call.

    They are drawn from the first megabytes of the text. Raises DataError, UsageError or OSError if it is not there.
    """
    rows: list[list[int]] = []
    for row in itertools.islice(_rows(data, tokenizer, block_size), positions):
        rows.append(row)
        positions -= len(row)
        if positions <= 0:
            break
    return rows


def _rows(data: Data, tokenizer: Tokenizer, block_size: int) -> Iterator[list[int]]:
    sources = sources_of(data)
    unk = "unk" in tokenizer.special
    if is_chat(data):
        if sum(source.size for source in sources) > LARGEST_CHATS:
            raise DataError(f"{data.path}: too many conversations to draw some")
        chats = read_chats(data).conversations
        for talk in Random(0).sample(chats, len(chats)):
            yield from (row.tokens[:block_size] for row in chat_template.rows(talk, tokenizer, block_size, unk=unk))
        return
    batches = Documents(sources, data, str(data.path or data.dataset)).batches()
    first = next(filter(None, batches), [])
    for text in Random(0).sample(first, len(first)):
        try:
            # a character is at least a token, or part of a long one: this much is enough for a block
            tokens = tokenizer.encode(text[: 64 * block_size], unk=unk).tolist()
        except DataError:
            continue
        yield [tokenizer.bos, *tokens][:block_size]
