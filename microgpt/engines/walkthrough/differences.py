"""The first number in which two models, or two rungs that compute the same step, differ."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

from microgpt.config import Model, Optim
from microgpt.engines.ladder import LADDER, choose
from microgpt.feed import Feed
from microgpt.model import Tensors, table


@dataclass(frozen=True, slots=True)
class Difference:
    """How an array differs from another one of its name; `first` is in the order of its numbers."""

    name: str
    count: int  # of its numbers, how many differ
    of: int
    first: tuple[int, ...] | None  # the index of the first one that differs
    values: tuple[float, float] | None  # both numbers there
    largest: float  # difference between two numbers, divided by the array's largest number
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # where they cannot be compared


def compare(a: Tensors, b: Tensors) -> list[Difference]:
    """Array by array, in the order of `a`; those that only one of the two has are left out."""
    return [_compare(name, x, b[name]) for name, x in a.items() if name in b]


def _compare(name: str, x: np.ndarray, y: np.ndarray) -> Difference:
    if x.shape != y.shape:
        return Difference(name, 0, x.size, None, None, 0.0, (x.shape, y.shape))
    x, y = x.astype(np.float64), y.astype(np.float64)
    apart = (x != y) & ~(np.isnan(x) & np.isnan(y))
    places = np.flatnonzero(apart)
    if not len(places):
        return Difference(name, 0, x.size, None, None, 0.0)
    at = tuple(int(i) for i in np.unravel_index(places[0], x.shape))
    with np.errstate(all="ignore"):
        scale = max(float(np.abs(x).max()), float(np.abs(y).max()))
        largest = float(np.abs(x - y).max()) / scale
    return Difference(name, len(places), x.size, at, (float(x[at]), float(y[at])), largest)


def rungs() -> dict[str, tuple[str, ...]]:
    """The engines that can compute here, on the CPU, each with its float types."""
    here = (name for name, info in LADDER.items() if not info.requires or importlib.util.find_spec(info.requires))
    return {name: LADDER[name].dtypes for name in here if "cpu" in LADDER[name].devices}


def compute(
    name: str, dtype: str, model: Model, optim: Optim, tensors: Tensors, feed: Feed, lr: float
) -> dict[str, np.ndarray]:
    """A step as a rung computes it, by the contract alone, in the order of the computation.

    The logits of the first row (without dropout), the loss, the gradients from the last weight back to the first, then
    the new weights and moments. Raises UsageError, MachineError.
    """
    choice = choose(model, optim, name=name, dtype=dtype, device="cpu")
    ours = choice.build(model, optim, threads=1)
    row, _ = next(feed.rows(0))
    logits, _ = ours.logits(ours.load(tensors), np.array(row[:-1], np.int32))
    state, losses = ours.train(ours.load(tensors), feed, np.array([lr]))
    after = ours.dump(state)
    # with beta1 = 0 the first moment is the gradient
    bare = choice.build(model, optim.model_copy(update={"beta1": 0.0, "clip_norm": 0.0}), threads=1)
    state, _ = bare.train(bare.load(tensors), feed, np.zeros(1))
    gradients = bare.dump(state)
    names = [weight.name for weight in table(model)]
    found = {"logits": logits, "loss": losses}
    found |= {f"gradient of {each}": gradients[f"m.{each}"] for each in _backward(names)}
    return found | {prefix + each: after[prefix + each] for prefix in ("m.", "v.", "") for each in names}


def _backward(names: list[str]) -> list[str]:
    """Weights in the order in which the backward pass reaches them."""
    head = [name for name in names if name == "lm_head"]
    inner = [name for name in names if name.startswith("layer")]
    return head + inner[::-1] + [name for name in names if name in ("wpe", "wte")][::-1]
