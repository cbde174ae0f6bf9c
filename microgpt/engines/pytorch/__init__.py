"""Autograd from a library: the forward pass is in model.py, PyTorch's autograd computes the backward pass.

Weights lie in one flat tensor, so that its gradient is one tensor too and the optimizer one expression. bfloat16 means
mixed precision: matrix products in bfloat16, while weights, moments, norms and the loss stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from microgpt import engines
from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.common.arrays import dropout_masks
from microgpt.engines.pytorch.model import Cache, Weights, cross_entropy, forward
from microgpt.errors import MachineError, UsageError
from microgpt.feed import Feed, MicroBatch
from microgpt.model import Tensors, n_params, table

if TYPE_CHECKING:
    from microgpt.engines.pytorch.distributed import Group

# Below this many weights, a second thread per operation costs more than it saves.
WORTH_THREADS = 1_000_000


def devices() -> tuple[str, ...]:
    """The devices that this machine has and PyTorch can compute on."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(name for name, is_there in there.items() if is_there)


class State:
    """Weights and moments, each one flat tensor, and the shapes of the matrices in them."""

    def __init__(self, model: Model, like: tuple[torch.dtype, str]) -> None:
        self.shapes = [(w.name, w.shape) for w in table(model)]
        self.w, self.m, self.v = (torch.zeros(n_params(model), dtype=like[0], device=like[1]) for _ in range(3))

    def views(self, flat: Tensor) -> Weights:
        """A flat tensor's matrices by name."""
        parts = flat.split([rows * columns for _, (rows, columns) in self.shapes])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes, parts, strict=True)}


class Engine(engines.Engine):
    """The pytorch rung: see microgpt.engines.Engine. Raises MachineError for a device that is not there.

    With `processes`, all of them train and evaluate together; each call of train, loss and dump is then one of all.
    """

    def __init__(
        self,
        model: Model,
        optim: Optim,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        threads: int = 0,
        processes: Group | None = None,
    ) -> None:
        device = processes.place(device) if processes else device
        self.processes, self.rank, self.size = processes, *((processes.rank, processes.size) if processes else (0, 1))
        kind = device.partition(":")[0]
        if kind not in devices():
            raise MachineError(f"--device {device}: not on this machine; PyTorch finds {' and '.join(devices())} here")
        if (kind, dtype) == ("mps", "float64"):
            raise UsageError("--dtype float64: --device mps has no such numbers; take float32, or --device cpu")
        self.model, self.optim, self.device, self.dtype = model, optim, device, dtype
        here = max(1, torch.get_num_threads() // (processes.n_local if processes else 1))
        self.threads = threads or (here if n_params(model) >= WORTH_THREADS else 1)
        self.waits = (
            kind != "cuda"
        )  # reads the loss of each step, for which the host must wait, instead of all at the end
        self.stored = torch.float64 if dtype == "float64" else torch.float32

    def load(self, tensors: Tensors) -> State:
        state = State(self.model, (self.stored, self.device))
        for flat, prefix in ((state.w, ""), (state.m, "m."), (state.v, "v.")):
            for name, view in state.views(flat).items():
                if prefix + name in tensors:
                    view.copy_(torch.tensor(tensors[prefix + name]))
        if self.processes and self.processes.shard:
            state.m, state.v = self.processes.own(state.m).clone(), self.processes.own(state.v).clone()
        return state

    def dump(self, state: State) -> Tensors:
        m, v = state.m, state.v
        if self.processes and self.processes.shard:
            m, v = (self.processes.whole(part, len(state.w)) for part in (m, v))
        return {
            prefix + name: view.to("cpu", copy=True).numpy()
            for flat, prefix in ((state.w, ""), (m, "m."), (v, "v."))
            for name, view in state.views(flat).items()
        }

    def train(
        self, state: State, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None
    ) -> tuple[State, np.ndarray]:
        found = state.w.new_zeros(2, len(lrs))  # losses and norms
        alive = torch.ones((), dtype=torch.bool, device=self.device)  # whether every step so far was finite
        with self._threads():
            for i, lr in enumerate(lrs.tolist()):
                step = feed.first_step + i
                found[0, i], found[1, i], g = self._gradient(state, feed, i, step)
                alive = alive & found[:, i].isfinite().all()
                if self.waits and not alive:
                    break
                self._update(state, g, step, lr, found[1, i], alive)
        losses, each = found.cpu().double().numpy()
        losses = np.array(
            [rules.checked_loss(loss, norm) for loss, norm in zip(losses.tolist(), each.tolist(), strict=True)]
        )
        count = int(np.append(~np.isfinite(losses), True).argmax()) + 1  # a step that is not finite is the last
        if norms is not None:
            norms[:count] = each[:count]
        return state, losses[:count]

    def _gradient(self, state: State, feed: Feed, i: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of step i of the feed, the norm of its gradient, and that, flat, summed over all micro-batches.

        With shards of the optimizer it is this process's part of the gradient.
        """
        n, together = len(state.w), self.processes
        both = state.w.new_zeros(n + 1)  # the gradient, and the loss behind it
        g, loss = both[:n], both[n:]
        flat = state.w.detach().requires_grad_()
        for rows in feed.micro_batches(i, self.rank, self.size):
            drops = self._dropout(feed, rows, step)
            part = self._loss(state.views(flat), rows, drops)
            g += torch.autograd.grad(part, flat)[0]
            loss += part.detach()
        if together and together.shard:
            g = together.sum_own(g)
            both = torch.cat([loss, torch.linalg.vector_norm(g).square().reshape(1)])
            together.sum(both)
            return both[0], both[1].sqrt(), g
        if together:
            together.sum(both)
        return loss[0], torch.linalg.vector_norm(g), g

    def _update(self, state: State, g: Tensor, step: int, lr: float, norm: Tensor, alive: Tensor) -> None:
        """One update of Adam; with shards of this process's part, and all gather the weights.

        An engine that does not wait for its device computes the update in any case, and keeps it where `alive`.
        """
        clip, together = self.optim.clip_norm, self.processes
        shard = together if together and together.shard else None
        if self.waits:
            g = g * rules.clip_scale(float(norm), clip)
        elif clip:
            g = g * torch.where(norm > clip, clip / norm, 1.0)
        w = shard.own(state.w) if shard else state.w
        before = w, state.m, state.v
        after = rules.adam(w, g, state.m, state.v, self.optim, step, lr)
        if not self.waits:
            after = tuple(torch.where(alive, new, old) for new, old in zip(after, before, strict=True))
        w, state.m, state.v = after
        state.w = shard.whole(w, len(state.w)) if shard else w

    def _dropout(self, feed: Feed, rows: MicroBatch, step: int) -> list[Tensor]:
        """The factors (B, T, D) of dropout for each place; an empty list for a model without."""
        shape = (*rows.inputs.shape, self.model.n_embd)
        masks = dropout_masks(self.model, feed, rows, step, str(self.stored).removeprefix("torch."))
        return [torch.tensor(mask, device=self.device).view(shape) for mask in masks]

    def _loss(self, w: Weights, rows: MicroBatch, drops: Sequence[Tensor] = ()) -> Tensor:
        inputs, targets = (torch.tensor(a, dtype=torch.int64, device=self.device) for a in (rows.inputs, rows.targets))
        weights = torch.tensor(rows.weights, dtype=self.stored, device=self.device)
        with self._precision():
            logits = forward(self.model, w, inputs, drops=drops)
        return cross_entropy(logits, targets, weights)

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        w = state.views(state.w)
        with self._threads(), torch.no_grad():
            losses = state.w.new_zeros(feed.n_steps)
            for i in range(feed.n_steps):
                for rows in feed.micro_batches(i, self.rank, self.size):
                    losses[i] += self._loss(w, rows)
            if self.processes:
                self.processes.sum(losses)
            return losses.cpu().double().numpy()

    def logits(self, state: State, tokens: np.ndarray, cache: Cache | None = None) -> tuple[np.ndarray, Cache]:
        cache = cache or Cache(self.model)
        with self._threads(), torch.no_grad(), self._precision():
            row = torch.tensor(np.asarray(tokens)[None], dtype=torch.int64, device=self.device)
            return forward(self.model, state.views(state.w), row, cache)[0].cpu().numpy(), cache

    def _precision(self) -> Any:
        """Matrix products in bfloat16, where that was asked for."""
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.dtype == "bfloat16")

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """This engine's number of threads; PyTorch's is the whole process's, so it is put back."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
