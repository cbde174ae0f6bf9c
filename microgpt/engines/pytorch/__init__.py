"""Autograd from a library: the forward pass is in model.py, PyTorch's autograd computes the backward pass.

Weights lie in one flat tensor, so that its gradient is one tensor too and the optimizer one expression. bfloat16 means
mixed precision: matrix products in bfloat16, while weights, moments, norms and the loss stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from microgpt import engines
from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.pytorch.batches import SLOTS, Rows, Slot, empty, gather, micro_batches, prefetch
from microgpt.engines.pytorch.capture import Replay
from microgpt.engines.pytorch.determinism import deterministic_algorithms, fix_workspace
from microgpt.engines.pytorch.forms import Functions, dropout, form_of, functions, shape_of
from microgpt.engines.pytorch.model import QKV, Cache, Weights, forward, head_of, hidden, tables
from microgpt.engines.pytorch.step import FixedStep, Step, until_not_finite
from microgpt.errors import MachineError, UsageError
from microgpt.feed import Feed
from microgpt.model import Tensors, n_params, table

if TYPE_CHECKING:
    from microgpt.engines.pytorch.distributed import Group

# Below this many weights, a second thread per operation costs more than it saves.
WORTH_THREADS = 1_000_000


def devices() -> tuple[str, ...]:
    """The devices that this machine has and PyTorch can compute on."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(name for name, is_there in there.items() if is_there)


class Operands(NamedTuple):
    """The weights as the forward pass takes them; what its gradient is taken of, and where in a flat one that lies."""

    weights: Weights
    head: Tensor  # the matrix that makes logits
    leaves: list[Tensor]
    places: list[slice]


class State:
    """Weights and moments, each one flat tensor, and the shapes of the matrices in them.

    `align` pads the vocabulary to a multiple of it, by rows of zeros that stay zero.
    """

    def __init__(self, model: Model, like: tuple[torch.dtype, str], align: int = 1) -> None:
        self.shapes = [(w.name, w.shape) for w in table(model)]
        padded = -(-model.vocab // align) * align
        self.sizes = [(padded if name in ("wte", "lm_head") else R) * C for name, (R, C) in self.shapes]
        self.head = head_of(model)
        self.w, self.m, self.v = (torch.zeros(sum(self.sizes), dtype=like[0], device=like[1]) for _ in range(3))

    def views(self, flat: Tensor) -> Weights:
        """A flat tensor's matrices by name."""
        parts = flat.split(self.sizes)
        shapes = zip(self.shapes, parts, strict=True)
        return {name: part[: rows * columns].view(rows, columns) for (name, (rows, columns)), part in shapes}

    def products(self, flat: Tensor) -> Weights:
        """A flat tensor's matrices as the forward pass takes them: padded, queries, keys and values in one."""
        names: list[tuple[str, int]] = []
        sizes: list[int] = []
        for (name, (_, columns)), size in zip(self.shapes, self.sizes, strict=True):
            if name.endswith((".attn_wk", ".attn_wv")):
                sizes[-1] += size
            else:
                names.append((name.replace("attn_wq", QKV), columns))
                sizes.append(size)
        parts = zip(names, flat.split(sizes), strict=True)
        return {name: part.view(-1, columns) for (name, columns), part in parts}

    def operands(self, copy: Tensor | None = None) -> Operands:
        """`copy` has the weights in the type of matrix products; what no product takes, embeddings, stays as it is."""
        flat = (self.w if copy is None else copy).detach().requires_grad_()
        found = Operands(self.products(flat), self.products(flat)[self.head], [flat], [slice(None)])
        for i, (name, (_, columns)) in enumerate(self.shapes):
            if copy is not None and name in ("wte", "wpe"):
                at = slice(sum(self.sizes[:i]), sum(self.sizes[: i + 1]))
                leaf = self.w[at].detach().requires_grad_()
                found.weights[name] = leaf.view(-1, columns)
                found.leaves.append(leaf)
                found.places.append(at)
        return found


class Engine(engines.Engine):
    """The pytorch rung: see microgpt.engines.Engine. Raises MachineError for a device that is not there.

    With `processes`, all of them train and evaluate together; each call of train, loss and dump is then one of all.
    A CPU gives the same bits from the same numbers in any case, a GPU if `deterministic`: see determinism.py.
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
        deterministic: bool = True,
    ) -> None:
        device = processes.place(device) if processes else device
        self.processes, self.rank, self.size = processes, *((processes.rank, processes.size) if processes else (0, 1))
        self.shard = processes if processes and processes.shard else None
        kind = device.partition(":")[0]
        if kind not in devices():
            raise MachineError(f"--device {device}: not on this machine; PyTorch finds {' and '.join(devices())} here")
        if (kind, dtype) == ("mps", "float64"):
            raise UsageError("--dtype float64: --device mps has no such numbers; take float32, or --device cpu")
        self.model, self.optim, self.device, self.dtype = model, optim, device, dtype
        here = max(1, torch.get_num_threads() // (processes.n_local if processes else 1))
        self.threads = threads or (here if n_params(model) >= WORTH_THREADS else 1)
        self.form = form_of(kind, dtype, deterministic)
        if self.form.deterministic:
            fix_workspace()
        self.stored = torch.float64 if dtype == "float64" else torch.float32
        self.computed = torch.bfloat16 if dtype == "bfloat16" else self.stored  # the type of matrix products
        self.fixed: Any = None  # a FixedStep, which is kept for as long as its state is the one that is trained

    def load(self, tensors: Tensors) -> State:
        self.fixed = None
        state = State(self.model, (self.stored, self.device), self.form.align)
        for flat, prefix in ((state.w, ""), (state.m, "m."), (state.v, "v.")):
            for name, view in state.views(flat).items():
                if prefix + name in tensors:
                    view.copy_(torch.tensor(tensors[prefix + name]))
        if self.shard:
            state.m, state.v = self.shard.own(state.m).clone(), self.shard.own(state.v).clone()
        return state

    def dump(self, state: State) -> Tensors:
        m, v = state.m, state.v
        if self.shard:
            m, v = (self.shard.whole(part, len(state.w)) for part in (m, v))
        return {
            prefix + name: view.to("cpu", copy=True).numpy()
            for flat, prefix in ((state.w, ""), (m, "m."), (v, "v."))
            for name, view in state.views(flat).items()
        }

    def train(
        self, state: State, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None
    ) -> tuple[State, np.ndarray]:
        found = state.w.new_zeros(2, len(lrs))  # losses and norms
        step, add, update = self._step(state, feed)
        with self._settings(), closing(self._micro_batches(feed, len(lrs))) as batches:
            for i, lr in enumerate(lrs.tolist()):
                step.begin(feed.first_step + i, lr, state.w)
                for rows in iter(partial(next, batches), None):
                    step.take(rows)
                    add()
                self._sum(state, step)
                update()
                found[:, i] = step.found
                if self.form.waits and not step.alive:
                    break
                w = self.shard.whole(step.own_w, len(state.w)) if self.shard else step.own_w
                state.w = step.keep(state.w, w)
        return state, until_not_finite(found.cpu().double().numpy(), norms)

    def _step(self, state: State, feed: Feed) -> tuple[Step, Callable[[], None], Callable[[], None]]:
        """The tensors of a state's steps, and their two parts: a micro-batch's gradient, and the update."""
        kind = self.computed if self.form.copied else None
        if self.form.waits:
            step = Step(state.w, kind)
            return step, partial(self._add, state, step, feed.seed), partial(self._update, state, step)
        shape = shape_of(feed, self.model.block_size, self.size)
        if not self.fixed or self.fixed[0] != (state, feed.seed, shape):
            own = (state.w.new_zeros(len(state.m)), state.w.new_zeros(len(state.m))) if self.shard else None
            fixed = FixedStep(state.w, kind, empty(shape, self.stored, "cpu"), own)
            fixed.known = tables(self.model, 0, shape[1], state.w, self.form.library)
            place = self.device if self.form.captured and self.device.startswith("cuda") else None
            parts = partial(self._add, state, fixed, feed.seed), partial(self._update_fixed, state, fixed)
            self.fixed = (state, feed.seed, shape), fixed, *(Replay(part, place) for part in parts)
        _, fixed, add, update = self.fixed
        fixed.alive.fill_(True)
        return fixed, add, update

    def _add(self, state: State, step: Step, seed: int) -> None:
        """Add a micro-batch's gradient and its loss."""
        rows, w = step.rows, state.operands(step.copy)
        shape = rows.inputs.shape
        drops = dropout(self.model, seed, step.number, rows.first_row, shape, self.stored, self.device)
        loss = self._loss(w, rows, drops, step.known)
        for each, at in zip(torch.autograd.grad(loss, w.leaves), w.places, strict=True):
            step.g[at].add_(each)
        step.loss += loss.detach()

    def _sum(self, state: State, step: Step) -> None:
        """Sum the gradient and the loss over all processes; with shards, this process's part of the gradient."""
        if self.shard:
            g = self.shard.sum_own(step.g)
            both = torch.stack((step.loss, torch.linalg.vector_norm(g).square()))
            self.shard.sum(both)
            torch.stack((both[0], both[1].sqrt()), out=step.found)
            step.own(g, self.shard.own(state.w))
        else:
            if self.processes:
                self.processes.sum(step.both)
            step.own(step.g, state.w)

    def _update(self, state: State, step: Step) -> None:
        """Adam's update of this process's weights, if the loss and the gradient are finite."""
        if not self.shard:
            step.measure()
        step.alive = bool(step.found.isfinite().all())
        if step.alive:
            g = step.own_g * rules.clip_scale(float(step.found[1]), self.optim.clip_norm)
            now = step.own_w, g, state.m, state.v
            step.own_w, state.m, state.v = rules.adam(*now, self.optim, step.number, step.rate)

    def _update_fixed(self, state: State, step: Step) -> None:
        """The same, computed in any case and kept where all was finite so far, all in place."""
        if not self.shard:
            step.measure()
        step.alive.logical_and_(step.found.isfinite().all())
        now = step.own_w, step.own_g, state.m, state.v, step.found[1], step.alive, step.number.double(), step.rate
        self.functions.update(self.optim, *now)

    @cached_property
    def functions(self) -> Functions:
        """Those that may be compiled, for this engine's form."""
        return functions(self.form.compiler)

    def _micro_batches(self, feed: Feed, n_steps: int) -> Generator[Rows | None, None, None]:
        """Those of this process, in memory of the host, with None behind each step's."""
        shape = shape_of(feed, self.model.block_size, self.size) if self.form.static else None
        items = micro_batches(feed, n_steps, self.rank, self.size)
        if shape and self.form.prefetches:
            yield from prefetch(items, [Slot(shape, self.stored, self.device) for _ in range(SLOTS)])
        else:
            for rows in items:
                yield gather(rows, empty(shape or rows.inputs.shape, self.stored, self.device)) if rows else None

    def _loss(self, w: Operands, rows: Rows, drops: Sequence[Tensor] = (), known: Any = None) -> Tensor:
        call, library = self.functions, self.form.library
        with self._precision():
            x = hidden(self.model, w.weights, rows.inputs, None, drops, known, library=library, layer=call.layer)
            return call.head_loss(self.model, x, w.head, rows.targets, rows.weights)

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        w, n = state.operands(state.w.to(self.computed) if self.form.copied else None), feed.n_steps
        with self._settings(), torch.no_grad(), closing(self._micro_batches(feed, n)) as batches:
            losses = state.w.new_zeros(n)
            for i in range(n):
                for rows in iter(partial(next, batches), None):
                    losses[i] += self._loss(w, rows.to(self.device))
            if self.processes:
                self.processes.sum(losses)
            return losses.cpu().double().numpy()

    def logits(self, state: State, tokens: np.ndarray, cache: Cache | None = None) -> tuple[np.ndarray, Cache]:
        cache = cache or Cache(self.model)
        with self._settings(), torch.no_grad(), self._precision():
            row = torch.tensor(np.asarray(tokens)[None], dtype=torch.int64, device=self.device)
            w = state.products(state.w)
            return forward(self.model, w, row, cache)[0].cpu().numpy(), cache

    def _precision(self) -> Any:
        """Matrix products in bfloat16, where that was asked for."""
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.dtype == "bfloat16")

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """This engine's threads and algorithms; PyTorch's are the whole process's, so they are put back."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with deterministic_algorithms() if self.form.deterministic else nullcontext():
                yield
        finally:
            torch.set_num_threads(before)
