"""Documents → tokens, once: in memory where they fit, else in memory-mapped files in the user's cache.

The cache's key is the SHA-256 of the whole text and of everything that turns it into tokens, so a changed text,
option or tokenizer never meets old tokens.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files, json_text
from microgpt.config import Data
from microgpt.data.datasets import cache_folder
from microgpt.data.documents import COPIES, Documents, Reject
from microgpt.data.sources import sha256
from microgpt.data.text_size import measure
from microgpt.data.text_size import total as total_size
from microgpt.errors import DataError
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import KINDS, MAX_BYTES, Tokenizer
from microgpt.tokenizers import read as read_tokenizer
from microgpt.tokenizers import train as train_tokenizer

ELSEWHERE = {"dataset", "path", "val_path", "val_fraction", "split_seed", "val_split"}  # keys that change no token
FORMAT = 2  # version of the cache
LEFT_OUT = "characters that the tokenizer does not know left out (--unk)"


@dataclass(frozen=True)
class Encoded:
    """Documents as tokens, each BOS + tokens (+ BOS)."""

    tokens: np.ndarray  # int32, or uint16 where it lies on disk (N,)
    offsets: np.ndarray  # int64 (documents + 1,)
    sizes: np.ndarray  # int64 (documents, 4), the TextSize of each text
    sha256: str  # of the tokens as <i4 and of the offsets as <i8
    kept: np.ndarray | None = None  # int64: the documents without exact copies of earlier ones; None: all
    pages: mmap.mmap | None = None  # the mapped file of the tokens

    def release(self) -> None:
        """Release the mapped pages that were read, so that they do not fill the memory."""
        if self.pages is not None and hasattr(self.pages, "madvise"):
            self.pages.madvise(mmap.MADV_DONTNEED)


def encode(
    documents: Documents, tokenizer: Tokenizer | None = None, progress: ProgressCallback = no_progress
) -> tuple[Tokenizer, Encoded]:
    """Learn or read the documents' tokenizer (unless one is given) and encode all of them.

    Raises UsageError, DataError with the document of an unknown character, MachineError, OSError.
    """
    if documents.held is None:
        return _mapped(documents, tokenizer, progress)
    tokenizer = tokenizer or learn(documents.data, documents.texts)
    return tokenizer, _in_memory(documents, tokenizer)


def learn(data: Data, texts: Iterable[str], *, roles: bool = False) -> Tokenizer:
    """The tokenizer that a data section names: learned from the texts (with the tokens of conversations, `roles`), or
    read from its file."""
    if data.tokenizer not in KINDS:
        path = Path(data.tokenizer)
        with files.readable(f"--tokenizer {path}", f"; name a tokenizer.json, or {', '.join(KINDS)}", DataError):
            return read_tokenizer(files.read_bytes(path, MAX_BYTES), str(path))
    size, merges = data.tokenizer_size, data.bpe_merges
    return train_tokenizer(data.tokenizer, texts, vocab_size=size, merges=merges, roles=roles, unk=data.unk)


def _in_memory(documents: Documents, tokenizer: Tokenizer) -> Encoded:
    parts = [_tokenize(documents, tokenizer, batch) for batch in documents.batches()]
    tokens, lengths, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(tokens, offsets, sizes, _digest([tokens], offsets))


def _tokenize(
    documents: Documents, tokenizer: Tokenizer, batch: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of a batch with their BOS, and the length and size of each document."""
    known = _known(documents, tokenizer, batch)
    tokens, lengths = _frame(documents, tokenizer, known)
    return tokens, lengths, measure(tokenizer, batch, known, tokens, lengths)


def _known(documents: Documents, tokenizer: Tokenizer, batch: list[str]) -> list[str]:
    """The texts without characters that the tokenizer does not know, where `unk` is set and it has no <unk>."""
    if not documents.data.unk or "unk" in tokenizer.special:
        return batch
    known = [tokenizer.decode(tokenizer.encode(text, unk=True)) for text in batch]
    documents.tally[LEFT_OUT] += sum(len(part) for text in batch for part in tokenizer.unknown_parts(text))
    return known


def _frame(documents: Documents, tokenizer: Tokenizer, batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a batch with their BOS, and the length of each document."""
    flat, lengths = _encode(documents, tokenizer, batch)
    around = 1 + (documents.data.trailing_bos and documents.data.packing == "rows")
    tokens = np.full(len(flat) + around * len(batch), tokenizer.bos, dtype=np.int32)
    tokens[np.arange(len(flat)) + np.repeat(np.arange(len(batch)) * around + 1, lengths)] = flat
    return tokens, np.asarray(lengths, dtype=np.int64) + around


def _encode(documents: Documents, tokenizer: Tokenizer, batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
    try:
        return tokenizer.encode_batch(batch)
    except DataError as error:
        for text in batch:
            try:
                tokenizer.encode(text)
            except DataError as one:
                raise DataError(f"{documents.source}: in the document {text[:40]!r}: {one}", one.code) from None
        raise DataError(f"{documents.source}: {error}", error.code) from None


def _digest(parts: Iterable[np.ndarray], offsets: np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part, "<i4").data)
    digest.update(np.ascontiguousarray(offsets, "<i8").data)
    return digest.hexdigest()


def _mapped(documents: Documents, tokenizer: Tokenizer | None, progress: ProgressCallback) -> tuple[Tokenizer, Encoded]:
    """The tokens of a long text from the cache; put there first if they are not. Raises OSError."""
    folder = cache_folder() / "tokens" / _key(documents, tokenizer)
    if not (folder / "meta.json").is_file():
        total = sum(source.size for source in documents.sources)
        tokenizer = tokenizer or learn(documents.data, _reported(documents, "learning the tokenizer", total, progress))
        files.make_folders(folder.parent)
        if folder.exists() and not (folder / "meta.json").is_file():
            files.remove_folder(folder)
        with suppress(FileExistsError), files.new_folder(folder) as temporary:  # another process may be faster
            _fill(temporary, documents, tokenizer, total, progress)
    return _open(folder, documents)


def _key(documents: Documents, tokenizer: Tokenizer | None) -> str:
    data = documents.data.model_dump(exclude=ELSEWHERE)
    if tokenizer is None and documents.data.tokenizer not in KINDS:
        tokenizer = learn(documents.data, ())
    known = hashlib.sha256(tokenizer.to_json()).hexdigest() if tokenizer else None
    whole = [FORMAT, sha256(documents.sources), known, data]
    return hashlib.sha256(json_text.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def _reported(documents: Documents, what: str, total: int, progress: ProgressCallback) -> Iterable[str]:
    done = 0
    for batch in documents.batches():
        yield from batch
        done += sum(map(len, batch))
        progress(_amount(what, done, total), None)


def _amount(what: str, done: int, total: int) -> str:
    return f"{what}: {min(done, total) / 1e6:,.0f} of {total / 1e6:,.0f} MB"


def _fill(folder: Path, documents: Documents, tokenizer: Tokenizer, total: int, progress: ProgressCallback) -> None:
    """Write tokens, lengths and sizes batch by batch, so that memory holds one batch. Raises OSError, DataError."""
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<i4")
    digest, n, done = hashlib.sha256(), 0, 0
    copies: list[np.ndarray] = []
    parts = [folder / name for name in ("tokens.bin", "offsets.bin", "sizes.bin")]
    files.append_bytes(parts[1], bytes(8))
    for batch in documents.batches():
        if not batch:
            continue
        tokens, lengths, sizes = _tokenize(documents, tokenizer, batch)
        ends = n + np.cumsum(lengths)
        digest.update(np.ascontiguousarray(tokens, "<i4").data)
        for file, part in zip(parts, (tokens.astype(dtype), ends.astype("<i8"), sizes.astype("<i8")), strict=True):
            files.append_bytes(file, part.tobytes())
        if documents.data.drop_duplicates:
            copies.append(np.frombuffer(b"".join(map(_short_hash, batch)), dtype="<u8"))
        n, done = int(ends[-1]), done + total_size(sizes).bytes
        progress(_amount("encoding", done, total), None)
    if not n:
        raise documents.nothing()
    with files.open_plain(parts[1]) as written:
        while data := written.read(1 << 22):
            digest.update(data)
    if copies:
        _, first = np.unique(np.concatenate(copies), return_index=True)
        documents.tally[COPIES[True]] += sum(map(len, copies)) - len(first)
        files.write_new(folder / "kept.bin", np.sort(first).astype("<i8").tobytes())
    for file in parts:
        files.flush(file)
    meta = {
        "sha256": digest.hexdigest(),
        "tokens": n,
        "dtype": dtype.str,
        "tally": dict(documents.tally),
        "rejects": [list(reject) for reject in documents.rejects],
    }
    files.write_new(folder / "tokenizer.json", tokenizer.to_json())
    files.write_new(folder / "meta.json", files.to_json(meta))


def _short_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _open(folder: Path, documents: Documents) -> tuple[Tokenizer, Encoded]:
    """The arrays of a cache folder; raises DataError if a file is not the one that was written."""
    meta: dict[str, Any] = files.read_json(folder / "meta.json", files.LARGE)
    place = folder / "tokenizer.json"
    tokenizer = read_tokenizer(files.read_bytes(place, MAX_BYTES), str(place))
    documents.tally = Counter(meta["tally"])
    documents.rejects = [Reject(*reject) for reject in meta["rejects"]]
    dtype = np.dtype(meta["dtype"])
    stored = {name: files.plain_size(folder / name) for name in ("tokens.bin", "offsets.bin", "sizes.bin")}
    if stored["tokens.bin"] != meta["tokens"] * dtype.itemsize:
        raise DataError(f"{folder}: its files are incomplete; remove this folder, and it is made again")
    with files.open_plain(folder / "tokens.bin") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tokens = np.frombuffer(pages, dtype)
    offsets = np.memmap(folder / "offsets.bin", np.dtype("<i8"), "r")
    sizes = np.memmap(folder / "sizes.bin", np.dtype("<i8"), "r").reshape(len(offsets) - 1, -1)
    kept = np.frombuffer((folder / "kept.bin").read_bytes(), "<i8") if (folder / "kept.bin").is_file() else None
    return tokenizer, Encoded(tokens, offsets, sizes, meta["sha256"], kept, pages)
