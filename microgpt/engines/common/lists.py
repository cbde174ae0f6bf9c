"""Named arrays to nested lists and back, for the rungs that know no arrays."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from microgpt.config import Model
from microgpt.model import Tensors, table

Lists = dict[str, list[list[float]]]
Rows = Mapping[str, Sequence[Sequence[float]]]


def to_lists(model: Model, tensors: Tensors) -> tuple[Lists, Lists, Lists]:
    """Weights, first and second moments as nested lists; moments that are missing are zero."""

    def part(prefix: str) -> Lists:
        return {w.name: tensors.get(prefix + w.name, np.zeros(w.shape)).tolist() for w in table(model)}

    return part(""), part("m."), part("v.")


def from_lists(w: Rows, m: Rows, v: Rows) -> Tensors:
    """The inverse of `to_lists`, as float64 arrays; tuples do as well."""
    parts = (("", w), ("m.", m), ("v.", v))
    return {prefix + name: to_array(rows) for prefix, part in parts for name, rows in part.items()}


def copy_to(array: np.ndarray, values: Sequence[float]) -> None:
    """Write numbers to the beginning of an array of the caller's."""
    array[: len(values)] = values


def to_array(numbers: Sequence[Any]) -> np.ndarray:
    """Nested lists or tuples as a float64 array."""
    return np.array(numbers, dtype=np.float64)


@contextmanager
def no_collector() -> Iterator[None]:
    """Hold Python's cyclic garbage collector: a graph of scalars has no cycles, so reference counts free it,
    and the collector would spend two thirds of the time looking through it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
