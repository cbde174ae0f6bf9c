"""Text as a folder of token shards: made once, also by several machines, then trained on without the text.

manifest.json             how many parts, the tokenizer's SHA-256, the sources, how they were read
tokenizer.json
part-1-of-2/part.json     its shards: tokens, documents, bytes, SHA-256
           /shard-00000   tokens.bin, offsets.bin, sizes.bin (see token_folder)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from microgpt import files
from microgpt.config import READING, Data
from microgpt.data.documents import Documents
from microgpt.data.encode import LEFT_OUT, amount
from microgpt.data.known_files import remember, remembered, stamp
from microgpt.data.text_ranges import part_of
from microgpt.data.token_folder import OFFSETS, TOKENS, Encoded, TokenWriter, digest, open_tokens
from microgpt.data.token_processes import default_processes, tokenize_all
from microgpt.data.tokenize import Tokens
from microgpt.errors import DataError, UsageError
from microgpt.progress import ProgressCallback, no_progress
from microgpt.tokenizers import MAX_BYTES, Tokenizer
from microgpt.tokenizers import read as read_tokenizer

FORMAT = 1
SHARD_TOKENS = 100_000_000  # a shard ends with the batch that reaches them
MANIFEST = "manifest.json"
STEP = 1 << 22  # tokens compared at once


class Shard(NamedTuple):
    """A part of the tokens that is shuffled on its own."""

    encoded: Callable[[], Encoded]  # maps its files
    n_tokens: int
    n_documents: int
    sha256: str


class Shards(NamedTuple):
    """All shards of a text, their tokenizer, and the data section with the keys by which the text was read."""

    shards: list[Shard]
    tokenizer: Tokenizer
    data: Data
    notes: list[str]
    measured: bool  # whether the sizes of the texts are known


def write_part(
    documents: Documents,
    tokenizer: Tokenizer,
    out: Path,
    part: int = 1,
    parts: int = 1,
    *,
    processes: int = 0,
    shard_tokens: int = SHARD_TOKENS,
    progress: ProgressCallback = no_progress,
) -> Path:
    """Tokenize one part of the documents into the folder `out`, whole or not at all; returns the part's folder.

    Raises UsageError where `out` holds parts of something else, or this part; DataError, MachineError, OSError.
    """
    data, all_sources = documents.data, documents.sources
    if data.drop_duplicates:
        raise UsageError("--drop-duplicates: shards are made apart and know nothing of each other; leave it out")
    plan = {
        "format": FORMAT,
        "parts": parts,
        "tokenizer": hashlib.sha256(tokenizer.to_json()).hexdigest(),
        "reading": data.reading,
        "sources": [[Path(source.name).name, source.size] for source in all_sources],
    }
    final = out / f"part-{part}-of-{parts}"
    files.make_folders(out)
    _join(out, plan, tokenizer)
    if final.exists():
        raise UsageError(f"{final}: exists already; it is part {part} of {parts}", "E_EXISTS")
    files.sweep(out, final.name)  # of a crash of this part
    by_lines = set(documents.formats) <= {"lines", "jsonl", "parquet"} and not data.strip_gutenberg
    mine = Documents(part_of(all_sources, part, parts, by_lines=by_lines), data, documents.source)
    total = sum(source.size for source in mine.sources)
    found = tokenize_all(mine.batches(), tokenizer, data, mine.source, processes or default_processes(total))
    with files.new_folder(final) as temporary:
        shards, left_out = _write_shards(temporary, found, tokenizer, shard_tokens, total, progress)
        if not shards and parts == 1:
            raise documents.nothing()
        tally = mine.tally + Counter({LEFT_OUT: left_out})
        rejects = [list(reject) for reject in mine.rejects]
        files.write_new(temporary / "part.json", files.to_json({"shards": shards, "tally": tally, "rejects": rejects}))
    return final


def _join(out: Path, plan: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Write the manifest, or compare it with the one that another part has written."""
    place, kept = out / MANIFEST, out / "tokenizer.json"
    if kept.exists() and not place.exists():  # the manifest is written first
        raise UsageError(f"{kept}: exists already; name a new folder with --out", "E_EXISTS")
    try:
        files.write_atomic(place, files.to_json(plan), replace=False)
    except FileExistsError:
        there = files.read_json(place, files.LARGE)
        if different := [key for key, value in plan.items() if not isinstance(there, dict) or there.get(key) != value]:
            raise UsageError(
                f"{out}: holds tokens of something else ({', '.join(different)} differ); name another folder with --out"
            ) from None
    files.write_atomic(kept, tokenizer.to_json())


def _write_shards(
    folder: Path,
    found: Generator[tuple[list[str], Tokens], None, None],
    tokenizer: Tokenizer,
    shard_tokens: int,
    total: int,
    progress: ProgressCallback,
) -> tuple[list[dict[str, Any]], int]:
    """The facts of the shards of some batches, and the characters that were left out."""
    shards, left_out, done = list[dict[str, Any]](), 0, 0
    writer: TokenWriter | None = None

    def close() -> None:
        if writer:
            facts = {"tokens": writer.n_tokens, "documents": writer.n_documents, "bytes": writer.n_bytes}
            shards.append({"name": writer.folder.name, **facts, "dtype": writer.dtype.str, "sha256": writer.close()})

    with closing(found):
        for _, batch in found:
            if writer is None or writer.n_tokens >= shard_tokens:
                close()
                place = folder / f"shard-{len(shards):05}"
                files.make_folders(place)
                writer = TokenWriter(place, tokenizer.vocab_size)
            before = writer.n_bytes
            writer.add(batch)
            left_out, done = left_out + batch.left_out, done + writer.n_bytes - before
            progress(amount("encoding", done, total), None)
    close()
    return shards, left_out


def is_folder(path: Path) -> bool:
    """Whether a folder is one of shards."""
    try:
        return (path / MANIFEST).is_file() and (path / "tokenizer.json").is_file()
    except OSError:  # a name too long for the file system
        return False


def open_folder(folder: Path, data: Data, *, verify: bool = False) -> Shards:
    """The shards of all parts. Raises DataError for a part that is missing or damaged, CheckpointError, OSError."""
    manifest, place = files.read_json(folder / MANIFEST, files.LARGE), folder / "tokenizer.json"
    tokenizer = read_tokenizer(files.read_bytes(place, MAX_BYTES), str(place))
    if manifest.get("format") != FORMAT or manifest.get("tokenizer") != _sha256(tokenizer):
        raise DataError(f"{folder}: {MANIFEST} is of another version or tokenizer; tokenize the text again")
    shards, tally, parts = list[Shard](), Counter[str](), int(manifest["parts"])
    for part in range(1, parts + 1):
        place = folder / f"part-{part}-of-{parts}"
        if not place.is_dir():
            again = f"microgpt data tokenize … --out {folder} --part {part}/{parts}"
            raise DataError(f"{folder}: part {part} of {parts} is missing; make it with {again}")
        facts = files.read_json(place / "part.json", files.LARGE)
        tally.update(facts["tally"])
        for one in facts["shards"]:
            where, dtype = place / str(one["name"]), np.dtype(str(one["dtype"]))
            opened = partial(open_tokens, where, int(one["tokens"]), dtype, str(one["sha256"]))
            _check(where, opened(), tokenizer.vocab_size, verify)
            shards.append(Shard(opened, int(one["tokens"]), int(one["documents"]), str(one["sha256"])))
    reading = {key: value for key, value in manifest["reading"].items() if key in READING}
    data = data.model_copy(update={**Data().model_dump(include=READING), **reading, "tokenizer": tokenizer.kind})
    notes = [f"{folder}: {what}: {count:,}" for what, count in tally.items() if count]
    return Shards(shards, tokenizer, data, notes, True)


def _sha256(tokenizer: Tokenizer) -> str:
    return hashlib.sha256(tokenizer.to_json()).hexdigest()


def _check(folder: Path, shard: Encoded, vocab_size: int, verify: bool) -> None:
    """Raise DataError for a shard that is not what was written; it is hashed once, then known by sizes and times."""
    paths = [folder / TOKENS, folder / OFFSETS]
    if not verify and all(remembered(path) == shard.sha256 for path in paths):
        return
    stamps = [stamp(path) for path in paths]
    steps = [shard.tokens[at : at + STEP] for at in range(0, len(shard.tokens), STEP)]
    if digest(steps, shard.offsets) != shard.sha256 or any(int(step.max()) >= vocab_size for step in steps):
        raise DataError(f"{folder}: its tokens are not those that were written; tokenize this part again")
    shard.release()
    for path, before in zip(paths, stamps, strict=True):
        if before:
            remember(path, shard.sha256, before)
