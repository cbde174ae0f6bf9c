"""A feed's micro-batches as tensors: gathered when they are asked for, or by a thread while the device computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor

from microgpt.feed import Feed, MicroBatch

SLOTS = 4  # two micro-batches, each with the end of its step behind it
END: Any = object()


class Rows(NamedTuple):
    """A micro-batch (B, T), padded by tokens 0 of weight 0: see microgpt.feed.MicroBatch."""

    inputs: Tensor  # int64
    targets: Tensor  # int64
    weights: Tensor
    first_row: Any

    def to(self, device: str) -> Rows:
        """The same on a device; a copy from pinned memory is not waited for."""
        inputs, targets, weights = (a.to(device, non_blocking=True) for a in self[:3])
        return Rows(inputs, targets, weights, self.first_row)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Rows:
    """Memory of the host for a micro-batch, pinned where the device is a GPU."""
    kinds = torch.int64, torch.int64, dtype
    pinned = device.startswith("cuda")
    inputs, targets, weights = (torch.zeros(shape, dtype=kind, pin_memory=pinned) for kind in kinds)
    return Rows(inputs, targets, weights, 0)


def gather(rows: MicroBatch, into: Rows) -> Rows:
    """A micro-batch in the upper left corner of larger tensors."""
    B, T = rows.inputs.shape
    for tensor, values in zip(into, (rows.inputs, rows.targets, rows.weights), strict=False):
        array = tensor.numpy()
        array[:] = 0
        array[:B, :T] = values
    return into._replace(first_row=rows.first_row)


def micro_batches(feed: Feed, n_steps: int, rank: int, size: int) -> Iterator[MicroBatch | None]:
    """Those of a process in the first steps of a feed, with None behind each step's."""
    for i in range(n_steps):
        yield from feed.micro_batches(i, rank, size)
        yield None


class Slot:
    """Memory for a micro-batch, which may be filled again once the device has copied it."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: str) -> None:
        self.rows, self.device = empty(shape, dtype, device), device
        self.copied = torch.cuda.Event() if device.startswith("cuda") else None

    def sent(self) -> None:
        """The copies to the device are under way."""
        if self.copied:
            self.copied.record(torch.cuda.current_stream(self.device))

    def wait(self) -> None:
        """Until they are done."""
        if self.copied:
            self.copied.synchronize()


def prefetch(items: Iterator[MicroBatch | None], slots: Sequence[Slot]) -> Iterator[Rows | None]:
    """The micro-batches in order, each gathered by a thread while the one before it is computed with.

    The thread ends with this iterator; its error is raised where its micro-batch would have come. It leaves the device
    alone, which may be capturing a graph.
    """

    def following(slot: Slot) -> Any:
        rows = next(items, END)
        return gather(rows, slot.rows) if isinstance(rows, MicroBatch) else rows

    places = cycle(slots)
    with ThreadPoolExecutor(1, "gather") as thread:
        slot = next(places)
        coming = thread.submit(following, slot)
        while (rows := coming.result()) is not END:
            current, slot = slot, next(places)
            slot.wait()
            coming = thread.submit(following, slot)
            yield rows
            current.sent()
