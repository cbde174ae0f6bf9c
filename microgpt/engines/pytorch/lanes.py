"""Models of one shape that train side by side on one device: torch.func's vmap makes their operations one of all.

A small model leaves most of a GPU idle, so several take little longer than one. Each has a lane: a row of the stacked
weights, an engine of its own by the contract, and a thread that trains it. The next steps are computed when every lane
that still trains has asked for some. A lane's numbers are those of its model alone, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from threading import Condition
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microgpt import engines
from microgpt.engines.pytorch import Engine, State
from microgpt.engines.pytorch import model as parts
from microgpt.engines.pytorch.batches import Rows, empty, gather
from microgpt.engines.pytorch.capture import Replay
from microgpt.engines.pytorch.forms import dropout, shape_of, update
from microgpt.engines.pytorch.step import until_not_finite
from microgpt.errors import UsageError
from microgpt.feed import Feed
from microgpt.model import Tensors


@dataclass
class Block:
    """The steps that a lane asks for."""

    feed: Feed
    lrs: np.ndarray
    found: list[np.ndarray] = field(default_factory=list)  # losses and norms (2, steps), as far as they are computed
    alive: bool = True  # whether all was finite so far
    error: BaseException | None = None

    @property
    def n_done(self) -> int:
        """The steps that are computed."""
        return sum(part.shape[1] for part in self.found)

    @property
    def n_left(self) -> int:
        """The steps that are not; none behind one that was not finite."""
        return len(self.lrs) - self.n_done if self.alive and self.error is None else 0


class Lanes:
    """The lanes of n models, each to be taken by `lane` and given up by `leave`, whatever happens to it."""

    def __init__(self, n: int) -> None:
        self.n, self.present = n, set(range(n))
        self.turn = Condition()  # held by whichever thread computes
        self.blocks: dict[int, Block] = {}
        self.stack: Stack | None = None

    def lane(self, number: int, engine: Engine) -> Lane:
        """An engine whose steps are computed with those of the others. Raises UsageError for another shape."""
        with self.turn:
            self.stack = self.stack or Stack(engine, self.n)
            if engine.model != self.stack.engine.model:
                raise UsageError("models that train side by side must have one shape and one vocabulary")
        return Lane(self, number, engine)

    def leave(self, number: int) -> None:
        """The lane asks for no more steps; the others go on."""
        with self.turn:
            self.present.discard(number)
            self._advance()

    def train(self, number: int, block: Block) -> None:
        """Compute the block, with the other lanes' steps."""
        with self.turn:
            self.blocks[number] = block
            self._advance()
            self.turn.wait_for(lambda: not block.n_left)
        if block.error:
            raise block.error

    def _advance(self) -> None:
        """Compute steps for as long as every lane that is present has asked for some."""
        while self.blocks and self.blocks.keys() == self.present and self.stack:
            try:
                self.stack.train(self.blocks)
            except BaseException as error:
                for block in self.blocks.values():
                    block.error = error
            self.blocks = {number: block for number, block in self.blocks.items() if block.n_left}
            self.turn.notify_all()


class Lane(engines.Engine):
    """The engine of one of the models; its steps wait for those of the others."""

    def __init__(self, lanes: Lanes, number: int, inside: Engine) -> None:
        self.lanes, self.number, self.inside = lanes, number, inside

    @property
    def stack(self) -> Stack:
        """The weights of all lanes."""
        assert self.lanes.stack
        return self.lanes.stack

    def load(self, tensors: Tensors) -> State:
        with self.lanes.turn:
            return self.stack.put(self.number, self.inside.load(tensors))

    def dump(self, state: State) -> Tensors:
        with self.lanes.turn:
            return self.inside.dump(state)

    def train(
        self, state: State, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None
    ) -> tuple[State, np.ndarray]:
        block = Block(feed, lrs)
        self.lanes.train(self.number, block)
        return state, until_not_finite(np.concatenate(block.found, axis=1), norms)

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        with self.lanes.turn:
            return self.inside.loss(state, feed)

    def logits(self, state: State, tokens: np.ndarray, cache: Any = None) -> tuple[np.ndarray, Any]:
        with self.lanes.turn:
            return self.inside.logits(state, tokens, cache)


class Stack:
    """The weights, moments and gradients of all lanes, K of them, as rows; and their steps."""

    def __init__(self, engine: Engine, n: int) -> None:
        self.engine, self.model = engine, engine.model
        self.like = State(self.model, (engine.stored, "meta"), engine.form.align)  # shapes alone
        shape: Any = {"size": (n, len(self.like.w)), "dtype": engine.stored, "device": engine.device}
        self.w, self.m, self.v, self.g = (torch.zeros(**shape) for _ in range(4))
        self.loss = self.w.new_zeros(n)
        self.found = self.w.new_zeros(2, n)  # losses, and the norms of the gradients
        self.number = self.w.new_zeros(n, dtype=torch.int64)
        self.rate = self.w.new_zeros(n, dtype=torch.float64)
        self.alive = self.w.new_zeros(n, dtype=torch.bool)
        self.first_row = self.w.new_zeros(n, dtype=torch.int64)
        self.seeds = [0] * n
        self.rows: Rows | None = None  # (K, B, T)
        place = engine.device if engine.form.captured and engine.device.startswith("cuda") else None
        self.make = partial(Replay, device=place)

    def put(self, number: int, state: State) -> State:
        """A lane's state, which lies in the stack from now on."""
        for stacked, name in ((self.w, "w"), (self.m, "m"), (self.v, "v")):
            stacked[number] = getattr(state, name)
            setattr(state, name, stacked[number])
        return state

    def train(self, blocks: dict[int, Block]) -> None:
        """As many steps of every block as the shortest has left."""
        count = min(block.n_left for block in blocks.values())
        first = {number: block.n_done for number, block in blocks.items()}
        self._settle(blocks)
        found = self.w.new_zeros(2, len(self.w), count)
        with self.engine._settings():
            for i in range(count):
                self._begin({number: (block, first[number] + i) for number, block in blocks.items()})
                batches = [
                    [(number, rows) for rows in block.feed.micro_batches(first[number] + i)]
                    for number, block in blocks.items()
                ]
                for rows in zip_longest(*batches):
                    self._take([each for each in rows if each])
                    self.add()
                self.finish()
                found[:, :, i] = self.found
        numbers = found.cpu().double().numpy()
        for number, block in blocks.items():
            block.found.append(numbers[:, number])
            block.alive = bool(np.isfinite(numbers[:, number]).all())

    def _settle(self, blocks: dict[int, Block]) -> None:
        """Memory for the blocks' micro-batches; what is recorded in a graph anew, if that or a seed is another one."""
        shapes = [shape_of(block.feed, self.model.block_size, 1) for block in blocks.values()]
        shape = len(self.w), max(B for B, _ in shapes), self.model.block_size
        seeds = [int(blocks[k].feed.seed) if k in blocks else seed for k, seed in enumerate(self.seeds)]
        if self.rows is None or self.rows.inputs.shape != shape or seeds != self.seeds:
            self.seeds, self.host = seeds, empty(shape, self.engine.stored, "cpu")
            self.rows = self.host.to(self.engine.device)
            self.known = parts.tables(self.model, 0, shape[2], self.w)
            self.add, self.finish = self.make(self._add), self.make(self._finish)
        self.alive.fill_(True)

    def _begin(self, blocks: dict[int, tuple[Block, int]]) -> None:
        """The numbers and rates of the lanes' next steps; nothing is added up yet."""
        for number, (block, i) in blocks.items():
            self.number[number] = block.feed.first_step + i
            self.rate[number] = float(block.lrs[i])
        self.g.zero_()
        self.loss.zero_()

    def _take(self, batches: Sequence[tuple[int, Any]]) -> None:
        """A micro-batch of each lane; one that has none has weights of 0."""
        assert self.rows
        for tensor in self.host[:3]:
            tensor.zero_()
        for number, batch in batches:
            inputs, targets, weights = (tensor[number] for tensor in self.host[:3])
            gather(batch, Rows(inputs, targets, weights, 0))
            self.first_row[number] = batch.first_row
        for mine, theirs in zip(self.rows[:3], self.host[:3], strict=True):
            mine.copy_(theirs)

    @cached_property
    def gradients(self) -> Any:
        """The function of the gradients and losses of all lanes, compiled where the engine's form is."""
        found = torch.func.vmap(torch.func.grad_and_value(self._loss))
        compiler = self.engine.form.compiler
        return torch.compile(found, dynamic=False, backend=compiler) if compiler else found

    def _loss(self, w: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor, drops: list[Tensor]) -> Tensor:
        """The loss of one lane's micro-batch."""
        by_name = self.like.products(w)
        x = parts.hidden(self.model, by_name, inputs, None, drops, self.known)
        return parts.head_loss(self.model, x, by_name[self.like.head], targets, weights)

    def _add(self) -> None:
        """Add the gradients and losses of a micro-batch of each lane."""
        assert self.rows
        shape, kind = self.rows.inputs.shape[1:], self.engine.stored
        each = [
            dropout(self.model, seed, self.number[k], self.first_row[k], shape, kind, self.engine.device)
            for k, seed in enumerate(self.seeds)
        ]
        drops = [torch.stack(of_lanes) for of_lanes in zip(*each, strict=True)]
        with self.engine._precision():
            g, loss = self.gradients(self.w, *self.rows[:3], drops)
        self.g.add_(g)
        self.loss.add_(loss)

    def _finish(self) -> None:
        """Adam's update of the lanes whose numbers were finite so far. Nobody reads a lane that has left."""
        torch.stack((self.loss, torch.linalg.vector_norm(self.g, dim=1)), out=self.found)
        self.alive.logical_and_(self.found.isfinite().all(0))
        now = self.w, self.g, self.m, self.v, self.found[1], self.alive, self.number.double(), self.rate
        torch.func.vmap(partial(update, self.engine.optim), out_dims=None)(*now)
