"""The contract: what every engine of the ladder does. Which engines there are, and how one is chosen: ladder.py.

An engine computes one model. It knows no files, clocks, printing or randomness. It is given and gives back dicts of
named NumPy arrays, integers and floats. Its file or folder has its name, and is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from microgpt.config import Model, Optim
from microgpt.feed import Feed
from microgpt.model import Tensors

State = Any  # weights and moments in the engine's own form
Cache = Any  # keys and values of the positions so far, in the engine's own form
Generate = Callable[..., tuple[np.ndarray, np.ndarray, int]]
Activations = dict[str, np.ndarray]
Inspect = Callable[[State, np.ndarray], Activations]


class Slots(Protocol):
    """Places for n sequences side by side, each with a cache of its own. Not thread-safe.

    All logits of a sequence are those of `Engine.logits` of its whole prompt, then of one token at a time, bit for
    bit, whatever the other slots hold.
    """

    def admit(self, tokens: Sequence[int]) -> int:
        """A free slot for a prompt of 1 to block_size tokens; computes nothing. Raises ValueError if none is free."""

    def prefill(self, slot: int, limit: int) -> np.ndarray | None:
        """Compute about `limit` more of the prompt's tokens: the last one's logits (V,), or None if some are left."""

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Logits (n, V) after one more token in each of n >= 1 slots whose prompts are done; a slot occurs once."""

    def release(self, slot: int) -> None:
        """Free a slot, at any time after `admit`."""


class Engine(Protocol):
    """One implementation of the model: a subclass. A State or Cache passed in is consumed: use the one returned."""

    def __init__(self, model: Model, optim: Optim, *, dtype: str, device: str = "cpu", threads: int = 0) -> None:
        """Build what depends on shapes alone. `threads` 0: the engine chooses.

        An engine that several processes can share (EngineInfo.shares) also takes `processes`: all of them make the
        same calls of train, loss and dump, with the same feeds, and each computes a share of every step's rows.
        """

    @staticmethod
    def remark(model: Model, dtype: str) -> str | None:
        """A deviation from what was asked for that the user should know, or None."""
        return None

    @staticmethod
    def plan(model: Model, dtype: str) -> dict[str, int]:
        """Sizes and crossovers for this machine, which a run records; those of __init__'s `plan` replace them."""
        return {}

    def load(self, tensors: Tensors) -> State:
        """Weights, and moments `m.*`, `v.*` where present (missing ones are zero), into the engine's form."""

    def dump(self, state: State) -> Tensors:
        """The engine's form back into weights and moments; `dump(load(t))` equals `t`. The state stays usable."""

    def train(
        self, state: State, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None
    ) -> tuple[State, np.ndarray]:
        """Take `len(lrs)` optimizer steps. Losses float64 (n,), each before its update, mean nats per scored token.

        `norms`, float64 (n,), takes the global norm of each step's gradient, before it is clipped.

        A step whose loss or gradient is not finite ends the call before its update: the state is the one before
        that step, and the losses end with a value that is not finite (nan where only the gradient is not).
        """

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        """The losses float64 (n,) of every step of the feed, without update or dropout. The state stays usable."""

    def logits(self, state: State, tokens: np.ndarray, cache: Cache = None) -> tuple[np.ndarray, Cache]:
        """Logits (T, V) at each of the next T tokens after those in the cache; prefill and decode alike.

        The cache holds at most block_size positions; the caller keeps within it. The state stays usable.
        """

    @property
    def generate(self) -> Generate | None:
        """None, or the fast path: whole sequences in one call, the tokens of inference.generate.generate_tokens.

        generate(state, prompts, offsets, max_length, temperature, uniform, stop) -> (tokens, ends, used). Prompt i is
        prompts[offsets[i]:offsets[i + 1]], at least one token; sequence i is tokens[ends[i]:ends[i + 1]], all int.
        `uniform` float64 (n,) is drawn from by one sequence after another; where it might not suffice for one more,
        the sequences end; `used` numbers were taken. Of (sequences, max_length) each sequence has a row of its own.
        """
        return None

    @property
    def slots(self) -> Callable[[State, int, int], Slots] | None:
        """None, or the fast path: slots(state, n, prefix_bytes), which computes n sequences in one product.

        Prompts that begin alike share what is computed; caches of up to `prefix_bytes` are kept for that.
        """
        return None

    @property
    def inspect(self) -> Inspect | None:
        """None, or the activations of T tokens from an empty cache by name: inspect(state, tokens).

        Of the residual stream (T, D) `embedding`, and per layer `layer0.after_attention` and `layer0.after_mlp`; of a
        layer also `q`, `k`, `v` and `mix` (H, T, D / H), where attention's weights `attention` (H, T, T) are those
        of a row's position on a column's; `mlp` (T, 4 D) after its activation function. At last `final` (T, D) and
        `logits` (T, V), which equal those of `logits` bit for bit. Not to be changed.
        """
        return None
