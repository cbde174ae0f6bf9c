"""Conversations → rows of tokens and the mask of the scored ones, once: in memory, or long ones in the user's cache.

A row is a document of the folder of tokens. Beside it lie the mask, the conversation of each row, and the conversations
themselves, one per line, of which samples draw their questions.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import compress, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from microgpt import files, json_text
from microgpt.config import Data
from microgpt.data import chat_template, documents
from microgpt.data.chat_template import Row
from microgpt.data.conversations import Chats, Conversation, Found, Message, short_chats, stream_chats
from microgpt.data.datasets import cache_folder
from microgpt.data.documents import Reject
from microgpt.data.encode import amount, cache_key, learn, without_held_out
from microgpt.data.sources import find_sources
from microgpt.data.split import training_mask
from microgpt.data.token_folder import Encoded, TokenWriter, digest, map_numbers, map_pages, open_tokens
from microgpt.data.tokenize import Tokens
from microgpt.errors import DataError, UsageError
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import MAX_BYTES, Tokenizer
from microgpt.tokenizers import read as read_tokenizer

BATCH = 1 << 18  # tokens that are lists before they are arrays
SCORED, PLACES, BYTES, TALKS, TALK_OFFSETS = "scored.bin", "rows.bin", "bytes.bin", "talks.jsonl", "talk_offsets.bin"


class ChatRows(NamedTuple):
    """All rows in the order of the text: those of the same conversation one after another."""

    encoded: Encoded  # a row is a document; sizes are those of its scored text
    scored: np.ndarray  # bool (N,)
    places: np.ndarray  # int64 (rows,): the conversation of each, counted from 0
    bytes: np.ndarray  # int64 (conversations,): of the contents of each
    pages: mmap.mmap | None = None  # the mapped file of the mask

    def release(self) -> None:
        """Release the mapped pages that were read, so that they do not fill the memory."""
        self.encoded.release()
        if self.pages is not None and hasattr(self.pages, "madvise"):
            self.pages.madvise(mmap.MADV_DONTNEED)


@dataclass
class _Batch:
    """Rows of a few conversations."""

    talks: list[Conversation]
    rows: list[Row]
    counts: list[int]  # rows of each conversation

    def arrays(self, tokenizer: Tokenizer) -> tuple[Tokens, np.ndarray]:
        """The tokens, a row as a document, and the mask."""
        tokens = np.array([token for row in self.rows for token in row.tokens], dtype=np.int32)
        scored = np.array([flag for row in self.rows for flag in row.scored], dtype=bool)
        lengths = np.array([len(row.tokens) for row in self.rows], dtype=np.int64)
        sizes = np.array([_scored_size(row, tokenizer) for row in self.rows], dtype=np.int64)
        return Tokens(tokens, lengths, sizes, 0), scored

    @property
    def bytes(self) -> np.ndarray:
        return np.array(list(map(_size, self.talks)), np.int64)


def encode_chats(
    data: Data,
    tokenizer: Tokenizer | None,
    block_size: int,
    progress: ProgressCallback = no_progress,
    *,
    verify: bool = False,
) -> tuple[Tokenizer, Chats, ChatRows]:
    """Learn or read the tokenizer of conversations (unless one is given) and encode all of them.

    Raises UsageError for a model that cannot chat, DataError with file and line, OSError.
    """
    if chats := short_chats(data, documents.IN_MEMORY):
        tokenizer = tokenizer or _learn(data, lambda: chats.conversations)
        return tokenizer, chats, _in_memory(chats, tokenizer, block_size, data)
    sources = find_sources(str(data.path))
    key = cache_key(sources, data, tokenizer, verify, "chats", block_size)
    folder = cache_folder() / "tokens" / key
    if not (folder / "meta.json").is_file():
        tokenizer = tokenizer or _learn(data, partial(_talks, data))  # read again at each pass
        files.make_folders(folder.parent)
        if folder.exists() and not (folder / "meta.json").is_file():
            files.remove_folder(folder)
        with suppress(FileExistsError), files.new_folder(folder) as temporary:  # another process may be faster
            _fill(temporary, data, tokenizer, block_size, sum(source.size for source in sources), progress)
    return _open(folder, str(data.path))


def _learn(data: Data, talks: Callable[[], Iterable[Conversation]]) -> Tokenizer:
    """The tokenizer of conversations, which may be asked for several times."""
    mask = training_mask(np.array(list(map(_size, talks()))), data) if without_held_out(data) else repeat(True)
    size = sum(map(len, _texts(compress(talks(), mask)))) if data.tokenizer_sample else 0  # no other way asks for it
    return learn(data, _texts(compress(talks(), mask)), size, roles=True)


def _talks(data: Data) -> Iterator[Conversation]:
    return (talk for _, talk in stream_chats(data, Found([], [])))


def _texts(talks: Iterable[Conversation]) -> Iterator[str]:
    return (message.content for talk in talks for message in talk)


def _size(talk: Conversation) -> int:
    """The bytes of a conversation's contents."""
    return sum(len(message.content.encode()) for message in talk)


def _in_memory(chats: Chats, tokenizer: Tokenizer, block_size: int, data: Data) -> ChatRows:
    batches = list(_batches(chats.placed, chats.source, chats.notes, tokenizer, block_size, data))
    parts = [batch.arrays(tokenizer) for batch in batches]
    tokens = np.concatenate([part.tokens for part, _ in parts])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part, _ in parts]))])
    sizes = np.concatenate([part.sizes for part, _ in parts])
    counts = [count for batch in batches for count in batch.counts]
    return ChatRows(
        Encoded(tokens, offsets, sizes, digest([tokens], offsets)),
        np.concatenate([scored for _, scored in parts]),
        np.repeat(np.arange(len(counts)), counts),
        np.concatenate([batch.bytes for batch in batches]),
    )


def _batches(
    placed: Iterable[tuple[str, Conversation]],
    source: str,
    notes: list[str],
    tokenizer: Tokenizer,
    block_size: int,
    data: Data,
) -> Iterator[_Batch]:
    """The rows of conversations, some at a time; adds to the notes at the end."""
    if not chat_template.can_chat(tokenizer):
        raise UsageError(f"{source}: conversations need a tokenizer with roles, and this model's has none")
    if block_size < chat_template.SMALLEST_BLOCK:
        raise UsageError(
            f"--block-size: conversations need at least {chat_template.SMALLEST_BLOCK} tokens of context, "
            f"got {block_size}"
        )
    batch, n_tokens, longer, full = _Batch([], [], []), 0, 0, 0
    for place, talk in placed:
        try:
            rows = list(chat_template.rows(talk, tokenizer, block_size, score=data.score, unk=data.unk))
        except DataError as error:
            raise DataError(f"{place}: {error}", error.code) from None
        longer += len(rows) > 1
        full += sum(len(row.tokens) > block_size for row in rows)
        batch.talks.append(talk)
        batch.rows += rows
        batch.counts.append(len(rows))
        n_tokens += sum(len(row.tokens) for row in rows)
        if n_tokens >= BATCH:
            yield batch
            batch, n_tokens = _Batch([], [], []), 0
    if batch.talks:
        yield batch
    if longer:
        notes.append(f"{source}: {longer:,} conversations exceed the context and take several rows")
    if full:
        notes.append(f"{source}: {full:,} rows end at the context length, within an answer")


def _scored_size(row: Row, tokenizer: Tokenizer) -> tuple[int, int, int, int]:
    """The TextSize of the scored text of a row."""
    unk = tokenizer.special.get("unk")
    scored = [i for i, flag in enumerate(row.scored) if flag]
    tokens = [row.tokens[i] for i in scored]
    text, unknown = tokenizer.decode(tokens), "".join([row.unknown[i] for i in scored])
    whole = text + unknown if unk is not None else text
    n_unk = tokens.count(unk) if unk is not None else 0
    return len(whole.encode()), len(whole), len(unknown.encode()), n_unk


def _fill(
    folder: Path, data: Data, tokenizer: Tokenizer, block_size: int, total: int, progress: ProgressCallback
) -> None:
    """Write rows and conversations, some at a time. Raises OSError, DataError, UsageError."""
    writer, found, source = TokenWriter(folder, tokenizer.vocab_size), Found([], []), str(data.path)
    n_talks = n_bytes = at = 0
    for batch in _batches(stream_chats(data, found), source, found.notes, tokenizer, block_size, data):
        tokens, scored = batch.arrays(tokenizer)
        writer.add(tokens)
        lines = [json_text.dumps(talk).encode() + b"\n" for talk in batch.talks]
        ends = at + np.cumsum(list(map(len, lines)))
        columns = {
            SCORED: scored.tobytes(),
            PLACES: np.repeat(np.arange(n_talks, n_talks + len(lines)), batch.counts).astype("<i8").tobytes(),
            BYTES: batch.bytes.astype("<i8").tobytes(),
            TALKS: b"".join(lines),
            TALK_OFFSETS: (ends - list(map(len, lines))).astype("<i8").tobytes(),
        }
        for name, column in columns.items():
            files.append_bytes(folder / name, column)
        n_talks, at, n_bytes = n_talks + len(lines), int(ends[-1]), n_bytes + int(batch.bytes.sum())
        progress(amount("encoding", n_bytes, total), None)
    sha256 = writer.close()
    for name in (SCORED, PLACES, BYTES, TALKS, TALK_OFFSETS):
        files.flush(folder / name)
    meta = {
        "sha256": sha256,
        "tokens": writer.n_tokens,
        "dtype": writer.dtype.str,
        "conversations": n_talks,
        "talk_bytes": at,
        "notes": found.notes,
        "rejects": [list(reject) for reject in found.rejects],
    }
    files.write_new(folder / "tokenizer.json", tokenizer.to_json())
    files.write_new(folder / "meta.json", files.to_json(meta))


def _open(folder: Path, source: str) -> tuple[Tokenizer, Chats, ChatRows]:
    """The arrays of a cache folder; raises DataError if a file is not the one that was written."""
    meta: dict[str, Any] = files.read_json(folder / "meta.json", files.LARGE)
    place = folder / "tokenizer.json"
    tokenizer = read_tokenizer(files.read_bytes(place, MAX_BYTES), str(place))
    encoded = open_tokens(folder, meta["tokens"], np.dtype(meta["dtype"]), meta["sha256"])
    n_talks = meta["conversations"]
    expected = {
        SCORED: meta["tokens"],
        PLACES: 8 * (len(encoded.offsets) - 1),
        BYTES: 8 * n_talks,
        TALKS: meta["talk_bytes"],
        TALK_OFFSETS: 8 * n_talks,
    }
    if any(files.plain_size(folder / name) != size for name, size in expected.items()):
        raise DataError(f"{folder}: its files are incomplete; remove this folder, and it is made again")
    scored, pages = map_pages(folder / SCORED, np.dtype(bool))
    places, sizes, begins = (map_numbers(folder / name) for name in (PLACES, BYTES, TALK_OFFSETS))
    rejects = [Reject(*reject) for reject in meta["rejects"]]
    chats = Chats(StoredConversations(folder / TALKS, begins), [], source, meta["notes"], rejects)
    return tokenizer, chats, ChatRows(encoded, scored, places, sizes, pages)


class StoredConversations(Sequence[Conversation]):
    """The conversations of a file, one per line, read when they are asked for. Raises OSError."""

    def __init__(self, file: Path, begins: np.ndarray) -> None:
        self.file, self.begins = file, begins

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, place: Any) -> Any:
        with files.open_plain(self.file) as file:
            file.seek(int(self.begins[place]))
            return _talk(file.readline())

    def __iter__(self) -> Iterator[Conversation]:
        with files.open_plain(self.file) as file:
            yield from map(_talk, file)


def _talk(line: bytes) -> Conversation:
    return [Message(*message) for message in json.loads(line)]
