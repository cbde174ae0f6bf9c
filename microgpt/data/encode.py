"""Documents → tokens, once: in memory where they fit, else in memory-mapped files in the user's cache.

The cache's key is the SHA-256 of the whole text (remembered by its files' sizes and times) and of everything that turns
it into tokens, so a changed text, option or tokenizer never meets old tokens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files, json_text
from microgpt.config import Data
from microgpt.data.datasets import cache_folder
from microgpt.data.documents import COPIES, Documents, Reject
from microgpt.data.sources import Source, sha256
from microgpt.data.split import byte_sizes, training_mask
from microgpt.data.token_folder import Encoded, TokenWriter, digest, open_tokens
from microgpt.data.token_processes import default_processes, tokenize_all
from microgpt.data.tokenize import Tokens, tokenize
from microgpt.errors import DataError
from microgpt.limits import byte_count
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import KINDS, MAX_BYTES, Tokenizer
from microgpt.tokenizers import read as read_tokenizer
from microgpt.tokenizers import train as train_tokenizer

ELSEWHERE = {"dataset", "path", "val_path", "val_fraction", "split_seed", "val_split"}  # keys that change no token
FORMAT = 2  # version of the cache
STRETCH = 1 << 16  # characters of text in a row that a tokenizer is learnt from, where it is learnt from a sample
LEFT_OUT = "characters that the tokenizer does not know left out (--unk)"


def encode(
    documents: Documents,
    tokenizer: Tokenizer | None = None,
    progress: ProgressCallback = no_progress,
    *,
    verify: bool = False,
) -> tuple[Tokenizer, Encoded]:
    """Learn or read the documents' tokenizer (unless one is given) and encode all of them.

    With `verify` a long text whose files have kept their sizes and times is hashed all the same.

    Raises UsageError, DataError with the document of an unknown character, MachineError, OSError.
    """
    if documents.held is None:
        return _mapped(documents, tokenizer, progress, verify)
    if tokenizer is None:
        held = documents.held
        if without_held_out(documents.data):
            held = list(compress(held, training_mask(byte_sizes(held), documents.data)))
        tokenizer = learn(documents.data, held, sum(map(len, held)))
    return tokenizer, _in_memory(documents, tokenizer)


def without_held_out(data: Data) -> bool:
    """Whether a tokenizer is to be learnt from the training part of a text alone."""
    return data.tokenizer_on == "train" and data.tokenizer == "bpe" and bool(data.val_fraction)


def learn(data: Data, texts: Iterable[str], size: int, *, roles: bool = False) -> Tokenizer:
    """The tokenizer that a data section names: learned from the texts (with the tokens of conversations, `roles`), or
    read from its file. `size` is that of the texts in bytes or characters."""
    if data.tokenizer not in KINDS:
        path = Path(data.tokenizer)
        with files.readable(f"--tokenizer {path}", f"; name a tokenizer.json, or {', '.join(KINDS)}", DataError):
            return read_tokenizer(files.read_bytes(path, MAX_BYTES), str(path))
    if data.tokenizer_sample:
        texts = _spread(texts, byte_count(data.tokenizer_sample), size)
    options = {"vocab_size": data.tokenizer_size, "merges": data.bpe_merges}
    return train_tokenizer(data.tokenizer, texts, **options, roles=roles, unk=data.unk)


def _spread(texts: Iterable[str], sample: int, size: int) -> Iterator[str]:
    """The texts that begin in stretches at equal distances, which make up sample / size of all."""
    stretch, at = max(1, min(STRETCH, sample // 16)), 0
    for text in texts:
        if at % (stretch * max(size, sample) // sample) < stretch:
            yield text
        at += len(text) + 1


def _in_memory(documents: Documents, tokenizer: Tokenizer) -> Encoded:
    parts = [tokenize(batch, tokenizer, documents.data, documents.source) for batch in documents.batches()]
    _count_left_out(documents, parts)
    tokens, offsets = np.concatenate([part.tokens for part in parts]), np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([[0], np.cumsum(offsets)])
    return Encoded(tokens, offsets, np.concatenate([part.sizes for part in parts]), digest([tokens], offsets))


def _count_left_out(documents: Documents, parts: Iterable[Tokens]) -> None:
    if documents.data.unk:
        documents.tally[LEFT_OUT] += sum(part.left_out for part in parts)


def _mapped(
    documents: Documents, tokenizer: Tokenizer | None, progress: ProgressCallback, verify: bool
) -> tuple[Tokenizer, Encoded]:
    """The tokens of a long text from the cache; put there first if they are not. Raises OSError."""
    folder = cache_folder() / "tokens" / cache_key(documents.sources, documents.data, tokenizer, verify)
    if not (folder / "meta.json").is_file():
        total = sum(source.size for source in documents.sources)
        if tokenizer is None:
            texts = _reported(documents, "learning the tokenizer", total, progress)
            if without_held_out(documents.data):
                texts = compress(texts, _training_mask(documents, total, progress))
            tokenizer = learn(documents.data, texts, total)
        files.make_folders(folder.parent)
        if folder.exists() and not (folder / "meta.json").is_file():
            files.remove_folder(folder)
        with suppress(FileExistsError), files.new_folder(folder) as temporary:  # another process may be faster
            _fill(temporary, documents, tokenizer, total, progress)
    return _open(folder, documents)


def _training_mask(documents: Documents, total: int, progress: ProgressCallback) -> np.ndarray:
    """The documents of a long text that will be trained on, found by reading it once more."""
    sizes, copies, done = list[np.ndarray](), list[np.ndarray](), 0
    for batch in documents.batches():
        sizes.append(byte_sizes(batch))
        copies += [_short_hashes(batch)] if documents.data.drop_duplicates else []
        done += int(sizes[-1].sum())
        progress(amount("finding the held-out text", done, total), None)
    kept = np.sort(_firsts(copies)) if copies else None
    return training_mask(np.concatenate(sizes), documents.data, kept)


def cache_key(sources: list[Source], data: Data, tokenizer: Tokenizer | None, verify: bool, *more: str | int) -> str:
    """The name of the tokens of some text in the cache; `more` is whatever else they depend on."""
    unset = {"tokenizer_on"} if data.tokenizer_sample else {"tokenizer_on", "tokenizer_sample"}  # older keys stay good
    keys = data.model_dump(exclude=ELSEWHERE | unset)
    if tokenizer is None and data.tokenizer not in KINDS:
        tokenizer = learn(data, (), 0)
    if tokenizer is None and without_held_out(data):
        keys |= data.model_dump(include={"tokenizer_on", "val_fraction", "val_split", "split_seed"})
    known = hashlib.sha256(tokenizer.to_json()).hexdigest() if tokenizer else None
    whole = [FORMAT, sha256(sources, verify=verify), known, keys, *more]
    return hashlib.sha256(json_text.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def _reported(documents: Documents, what: str, total: int, progress: ProgressCallback) -> Iterable[str]:
    done = 0
    for batch in documents.batches():
        yield from batch
        done += sum(map(len, batch))
        progress(amount(what, done, total), None)


def amount(what: str, done: int, total: int) -> str:
    """How far some work on a text is."""
    return f"{what}: {min(done, total) / 1e6:,.0f} of {total / 1e6:,.0f} MB"


def _fill(folder: Path, documents: Documents, tokenizer: Tokenizer, total: int, progress: ProgressCallback) -> None:
    """Write the tokens batch by batch, so that memory holds a few batches. Raises OSError, DataError, MachineError."""
    writer = TokenWriter(folder, tokenizer.vocab_size)
    copies: list[np.ndarray] = []
    processes = default_processes(total)
    found = tokenize_all(documents.batches(), tokenizer, documents.data, documents.source, processes)
    with closing(found):  # its processes end with an error here
        for batch, part in found:
            writer.add(part)
            _count_left_out(documents, [part])
            if documents.data.drop_duplicates:
                copies.append(_short_hashes(batch))
            progress(amount("encoding", writer.n_bytes, total), None)
    if not writer.n_tokens:
        raise documents.nothing()
    sha256 = writer.close()
    if copies:
        first = _firsts(copies)
        documents.tally[COPIES[True]] += sum(map(len, copies)) - len(first)
        files.write_new(folder / "kept.bin", np.sort(first).astype("<i8").tobytes())
    meta = {
        "sha256": sha256,
        "tokens": writer.n_tokens,
        "dtype": writer.dtype.str,
        "tally": dict(documents.tally),
        "rejects": [list(reject) for reject in documents.rejects],
    }
    files.write_new(folder / "tokenizer.json", tokenizer.to_json())
    files.write_new(folder / "meta.json", files.to_json(meta))


def _short_hashes(texts: list[str]) -> np.ndarray:
    found = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(found), dtype="<u8")


def _firsts(hashes: list[np.ndarray]) -> np.ndarray:
    """The places of the texts without exact copies of earlier ones."""
    return np.unique(np.concatenate(hashes), return_index=True)[1]


def _open(folder: Path, documents: Documents) -> tuple[Tokenizer, Encoded]:
    """The arrays of a cache folder; raises DataError if a file is not the one that was written."""
    meta: dict[str, Any] = files.read_json(folder / "meta.json", files.LARGE)
    place = folder / "tokenizer.json"
    tokenizer = read_tokenizer(files.read_bytes(place, MAX_BYTES), str(place))
    documents.tally = Counter(meta["tally"])
    documents.rejects = [Reject(*reject) for reject in meta["rejects"]]
    kept = np.frombuffer((folder / "kept.bin").read_bytes(), "<i8") if (folder / "kept.bin").is_file() else None
    return tokenizer, open_tokens(folder, meta["tokens"], np.dtype(meta["dtype"]), meta["sha256"], kept)
