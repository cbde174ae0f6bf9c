"""The part of a text that is held out, and the order of the rest: one rule for documents and conversations."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from random import Random

import numpy as np

from microgpt.config import Data
from microgpt.data.documents import shared


def split(
    places: Iterable[int], sizes: np.ndarray, data: Data, rng: Random, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """The places to train on, shuffled with `rng`, and those to hold out, both int64. Either may be empty.

    `places` count documents from 0, in the order of the text; `sizes` are the bytes of all documents. Held out are
    documents that `data.split_seed` draws, whatever the state of `rng`, so that runs of other seeds are measured on
    the same text; with `data.val_split` "end" the documents after the first 1 - fraction of the bytes.

    Where documents share text with their neighbours (chunks that overlap), the text's end is held out in any case,
    and the documents between are left out, so that nothing held out is trained on.
    """
    order, held, neighbours = array("q", places), array("q"), shared(data)
    n_held = round(len(order) * fraction)
    if fraction and data.val_split == "end":
        ends = np.cumsum(sizes[np.frombuffer(order, np.int64)])
        n_held = len(order) - int(np.searchsorted(ends, (1 - fraction) * ends[-1], side="right"))
    if n_held and (neighbours or data.val_split == "end"):
        held = order[len(order) - n_held :]
        del order[max(0, len(order) - n_held - neighbours) :]
        rng.shuffle(order)
        return _numbers(order), _numbers(held)
    if n_held:
        drawn = order[:]
        Random(data.split_seed).shuffle(drawn)
        held = drawn[len(drawn) - n_held :]
        del drawn  # of many documents, the larger part of the memory
    rng.shuffle(order)  # all of it: with the seed of the split, the held-out part comes last
    if not n_held:
        return _numbers(order), _numbers(held)
    kept = np.ones(len(sizes), dtype=bool)
    kept[_numbers(held)] = False
    return _numbers(order)[kept[_numbers(order)]], _numbers(held)


def training_mask(sizes: np.ndarray, data: Data, kept: np.ndarray | None = None) -> np.ndarray:
    """The documents that `split` leaves to train on, of those that are `kept` (all by default), bool (documents,)."""
    places = range(len(sizes)) if kept is None else kept
    train, _ = split(places, sizes, data, Random(0), data.val_fraction or 0.0)
    mask = np.zeros(len(sizes), dtype=bool)
    mask[train] = True
    return mask


def byte_sizes(texts: Iterable[str]) -> np.ndarray:
    """The bytes of texts in UTF-8, int64 (texts,)."""
    return np.array([len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts])


def _numbers(places: array[int]) -> np.ndarray:
    return np.frombuffer(places, dtype=np.int64) if places else np.zeros(0, dtype=np.int64)
