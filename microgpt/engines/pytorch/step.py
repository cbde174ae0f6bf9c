"""The tensors of a training step: its numbers, its micro-batch, and what is added up.

Where the host waits for each step, its numbers are Python's own. Elsewhere all lies in tensors that keep their places
from step to step, which a graph of the step's kernels refers to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from microgpt.engines.pytorch.batches import Rows
from microgpt.optim import checked_loss


class Step:
    """A step whose loss the host reads before the update. `kind`: the type of a copy of the weights, if any."""

    def __init__(self, w: Tensor, kind: torch.dtype | None) -> None:
        n = len(w)
        self.both = w.new_zeros(n + 1)  # the gradient, and the loss behind it
        self.g, self.loss = self.both[:n], self.both[n]
        self.found = w.new_zeros(2)  # the loss, and the norm of the gradient
        self.copy = None if kind is None else torch.empty_like(w, dtype=kind)
        self.number: Any = 0  # of this step, from 0
        self.rate: Any = 0.0
        self.alive: Any = True  # whether all was finite so far
        self.known: Any = None  # tables that depend on nothing but the shape, else found again
        self.rows: Rows
        self.own_g: Tensor  # what this process updates with,
        self.own_w: Tensor  # and what it updates

    def begin(self, number: int, rate: float, w: Tensor) -> None:
        """Nothing is added up yet."""
        self.give(number, rate)
        self.both.zero_()
        if self.copy is not None:
            self.copy.copy_(w)

    def give(self, number: int, rate: float) -> None:
        """The step's number and its learning rate."""
        self.number, self.rate = number, rate

    def take(self, rows: Rows) -> None:
        """The next micro-batch, from the host."""
        self.rows = rows.to(str(self.both.device))

    def own(self, g: Tensor, w: Tensor) -> None:
        """What this process updates: all, or its shard."""
        self.own_g, self.own_w = g, w

    def measure(self) -> None:
        """The loss, and the norm of a gradient that is whole."""
        torch.stack((self.loss, torch.linalg.vector_norm(self.g)), out=self.found)

    def keep(self, old: Tensor, new: Tensor) -> Tensor:
        """The new weights."""
        return new


class FixedStep(Step):
    """A step of which the host reads nothing: the update is kept where all was finite so far."""

    def __init__(self, w: Tensor, kind: torch.dtype | None, rows: Rows, own: tuple[Tensor, Tensor] | None) -> None:
        super().__init__(w, kind)
        self.number, self.rate = (w.new_zeros((), dtype=kind) for kind in (torch.int64, torch.float64))
        self.alive = w.new_ones((), dtype=torch.bool)
        self.rows = rows.to(str(w.device))._replace(first_row=w.new_zeros((), dtype=torch.int64))
        self.own_g, self.own_w = own or (self.g, w)

    def give(self, number: int, rate: float) -> None:
        self.number.fill_(number)
        self.rate.fill_(rate)

    def take(self, rows: Rows) -> None:
        for mine, theirs in zip(self.rows[:3], rows[:3], strict=True):
            mine.copy_(theirs, non_blocking=True)
        self.rows.first_row.fill_(rows.first_row)

    def own(self, g: Tensor, w: Tensor) -> None:
        self.own_g.copy_(g)  # nothing, where it is the same tensor
        self.own_w.copy_(w)

    def keep(self, old: Tensor, new: Tensor) -> Tensor:
        return old.copy_(new)


def until_not_finite(found: np.ndarray, norms: np.ndarray | None) -> np.ndarray:
    """The losses of steps from the first on, of losses and norms (2, steps); a step that is not finite is the last.

    Its loss is then not finite either. `norms` takes the norms.
    """
    losses = np.array([checked_loss(loss, norm) for loss, norm in found.T.tolist()])
    count = int(np.append(~np.isfinite(losses), True).argmax()) + 1
    if norms is not None:
        norms[: len(losses[:count])] = found[1, :count]
    return losses[:count]
