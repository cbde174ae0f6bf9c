"""LoRA: the model's matrices are constant, and each learns a correction of low rank.

    W' = W + (alpha / r) B A        A (r, in) starts random, B (out, r) starts at 0

Hu et al. 2021, arXiv:2106.09685. Every engine can train it, unchanged: with beta1 = 0 an optimizer step's first
moment is the gradient, and with rate 0 the weights stay. So the engine gives dW of W', the chain rule through the
product gives dA = s Bᵀ dW and dB = s dW Aᵀ, and Adam moves A and B. It saves memory on disk and forgetting, not
time: the whole dW is computed.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np

from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines import Engine
from microgpt.feed import Feed
from microgpt.model import Tensors, Weight
from microgpt.model import table as model_table
from microgpt.rng import gauss

A, B = ".lora_a", ".lora_b"


def table(model: Model, rank: int) -> list[Weight]:
    """The adapters of every matrix of every layer: A (r, in), B (out, r)."""
    out = []
    for name, (rows, columns), _ in model_table(model):
        if name.startswith("layer"):
            out += [Weight(name + A, (rank, columns), 1 / math.sqrt(columns)), Weight(name + B, (rows, rank), 0.0)]
    return out


def init_adapters(model: Model, rank: int, rng: Random) -> Tensors:
    """Draw every A; every B is 0, so that the adapted model begins as the one it adapts. float64."""
    return {
        w.name: gauss(rng, w.shape[0] * w.shape[1], w.std).reshape(w.shape) if w.std else np.zeros(w.shape)
        for w in table(model, rank)
    }


def merge(weights: Tensors, adapters: Tensors, scale: float) -> Tensors:
    """The weights with their corrections added, W + scale B A; `scale` is alpha / r."""
    merged = dict(weights)
    for name in adapters:
        if name.endswith(A):
            of = name.removesuffix(A)
            correction = scale * (adapters[of + B].astype(np.float64) @ adapters[name].astype(np.float64))
            merged[of] = (weights[of] + correction).astype(weights[of].dtype)
    return merged


class State:
    """The constant weights, the adapters with their moments, and the inner engine's state of the merged weights."""

    def __init__(self, weights: Tensors, adapters: Tensors, m: Tensors, v: Tensors) -> None:
        self.weights, self.adapters, self.m, self.v = weights, adapters, m, v
        self.merged: Any = None


class Adapted(Engine):
    """An engine that trains adapters: see microgpt.engines.Engine; any engine does the work inside."""

    def __init__(
        self, model: Model, optim: Optim, *, inside: type[Engine], rank: int, alpha: float, **options: Any
    ) -> None:
        self.optim, self.scale = optim, alpha / rank
        self.names = [w.name for w in table(model, rank)]
        self.inner = inside(model, Optim(learning_rate=0, beta1=0, schedule="constant"), **options)

    def load(self, tensors: Tensors) -> State:
        """Weights, adapters, and the adapters' moments (missing ones are zero)."""

        def part(prefix: str) -> Tensors:
            return {n: tensors.get(prefix + n, np.zeros(tensors[n].shape)).astype(np.float64) for n in self.names}

        weights = {n: a for n, a in tensors.items() if not n.startswith(("m.", "v.")) and n not in self.names}
        return self._merged(State(weights, part(""), part("m."), part("v.")))

    def dump(self, state: State) -> Tensors:
        """The inverse of `load`; adapters and moments are float64."""
        parts = (("", state.adapters), ("m.", state.m), ("v.", state.v))
        return dict(state.weights) | {prefix + n: a.copy() for prefix, part in parts for n, a in part.items()}

    def train(
        self, state: State, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None
    ) -> tuple[State, np.ndarray]:
        """Optimizer steps on the adapters alone, whose gradient `norms` is of."""
        losses = []
        for i, lr in enumerate(lrs.tolist()):
            state.merged, loss = self.inner.train(state.merged, feed.part(i, i + 1), np.zeros(1))
            losses.append(float(loss[0]))
            if not math.isfinite(losses[-1]):  # that of the matrices, as the engine inside reports it
                break
            dw = self.inner.dump(state.merged)
            grads: Tensors = {}
            for name in self.names[::2]:
                of = name.removesuffix(A)
                whole = dw["m." + of].astype(np.float64)
                grads[name] = self.scale * (state.adapters[of + B].T @ whole)
                grads[of + B] = self.scale * (whole @ state.adapters[name].T)
            norm = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
            if norms is not None:
                norms[i] = norm
            losses[-1] = rules.checked_loss(losses[-1], norm)
            if not math.isfinite(losses[-1]):
                break
            clip = rules.clip_scale(norm, self.optim.clip_norm)
            for n, g in grads.items():
                state.adapters[n], state.m[n], state.v[n] = rules.adam(
                    state.adapters[n], g * clip, state.m[n], state.v[n], self.optim, feed.first_step + i, lr
                )
            self._merged(state)
        return state, np.array(losses)

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        """As the merged model."""
        return self.inner.loss(state.merged, feed)

    def logits(self, state: State, tokens: np.ndarray, cache: Any = None) -> tuple[np.ndarray, Any]:
        """As the merged model."""
        return self.inner.logits(state.merged, tokens, cache)

    def _merged(self, state: State) -> State:
        state.merged = self.inner.load(merge(state.weights, state.adapters, self.scale))
        return state
