"""Files of tokens that other programs wrote: nanoGPT's (uint16 without a header) and llm.c's .bin.

A document begins at BOS, which llm.c writes before and nanoGPT after each; a file without BOS is one document. The
files do not say which tokenizer made them, so --tokenizer does.
"""

from __future__ import annotations

import glob
import mmap
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from microgpt import files
from microgpt.config import Data
from microgpt.data.known_files import remember, remembered, stamp
from microgpt.data.shards import STEP, Shard, Shards
from microgpt.data.token_folder import Encoded
from microgpt.errors import DataError
from microgpt.tokenizers import Tokenizer

SUFFIX = ".bin"
HEADER = 256  # int32 numbers of llm.c: magic, version, tokens
MAGIC = {20240520: "<u2", 20240801: "<u4"}  # of GPT-2's and Llama 3's vocabulary


class Layout(NamedTuple):
    """Where a file's tokens lie."""

    begin: int  # in bytes
    dtype: np.dtype
    tokens: int


def bin_files(place: str) -> list[Path]:
    """The .bin files of a path, folder or glob; none if it holds others."""
    if os.path.isdir(place):
        return sorted(path for path in Path(place).iterdir() if path.suffix == SUFFIX)
    if not os.path.exists(place) and glob.has_magic(place):
        found = sorted(map(Path, glob.glob(place, recursive=True)))
        return found if all(path.suffix == SUFFIX for path in found) else []
    return [Path(place)] if place.endswith(SUFFIX) and os.path.exists(place) else []


def open_files(paths: list[Path], data: Data, tokenizer: Tokenizer, *, verify: bool = False) -> Shards:
    """Each file as a shard, trained on as one stream. Raises DataError for a file that does not fit the tokenizer."""
    shards = list[Shard]()
    for path in paths:
        with files.readable(path, "; name a file of tokens", DataError):
            shards.append(_shard(path, tokenizer, verify))
    data = data.model_copy(update={"packing": "joined", "trailing_bos": True, "tokenizer": tokenizer.kind})
    return Shards(shards, tokenizer, data, [], False)


def _shard(path: Path, tokenizer: Tokenizer, verify: bool) -> Shard:
    layout = _layout(path)
    known = None if verify else remembered(path)
    before = stamp(path)
    encoded = _open(path, layout, tokenizer.bos, known or "")
    largest = max(int(encoded.tokens[at : at + STEP].max()) for at in range(0, layout.tokens, STEP))
    encoded.release()
    if largest >= tokenizer.vocab_size:
        raise DataError(f"{path}: token {largest} in it, and the tokenizer has {tokenizer.vocab_size:,}; name its own")
    sha256 = known or files.sha256(path)
    if before and not known:
        remember(path, sha256, before)
    return Shard(partial(_open, path, layout, tokenizer.bos, sha256), layout.tokens, len(encoded.sizes), sha256)


def _layout(path: Path) -> Layout:
    """Raises DataError for a file that is neither of the two."""
    size = files.plain_size(path)
    with files.open_plain(path) as file:
        head = np.frombuffer(file.read(4 * HEADER).ljust(4 * HEADER, b"\0"), "<i4")
    begin, dtype, tokens = 0, np.dtype("<u2"), size // 2
    if int(head[0]) in MAGIC:
        begin, dtype, tokens = 4 * HEADER, np.dtype(MAGIC[int(head[0])]), int(head[2])
    if tokens < 2 or size != begin + tokens * dtype.itemsize:
        raise DataError(f"{path}: no whole file of tokens (uint16 as nanoGPT's, or with the header of llm.c)")
    return Layout(begin, dtype, tokens)


def _open(path: Path, layout: Layout, bos: int, sha256: str) -> Encoded:
    with files.open_plain(path) as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tokens = np.frombuffer(pages, layout.dtype, layout.tokens, layout.begin)
    found = [np.flatnonzero(tokens[at : at + STEP] == bos) + at for at in range(0, layout.tokens, STEP)]
    begins = np.concatenate(found)
    offsets = np.concatenate([[] if len(begins) and begins[0] == 0 else [0], begins, [layout.tokens]]).astype(np.int64)
    return Encoded(tokens, offsets, np.zeros((len(offsets) - 1, 4), np.int64), sha256, None, pages)
