"""The engine line: what every rung of the ladder can do, and how a rung is found.

An engine computes one model; it knows no files, clocks, printing or randomness. What crosses the line is a dict
of named NumPy arrays, integers and floats. The file name is the registry: a rung is imported when it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from microgpt.config import Model, Optim
from microgpt.errors import MachineError, UsageError, install, nearest
from microgpt.feed import Feed, MicroBatch, pack
from microgpt.model import Tensors, flops_per_token

__all__ = ["ALIASES", "LADDER", "Choice", "Engine", "Feed", "MicroBatch", "Rung", "choose", "engine", "pack"]

State = Any
Generate = Callable[..., tuple[np.ndarray, np.ndarray, int]]
Cache = Any


class Engine(Protocol):
    """One telling of the model. A State or Cache handed in is spent: use the one handed back."""

    def __init__(self, model: Model, optim: Optim, *, dtype: str, device: str = "cpu", threads: int = 0) -> None:
        """Build what depends on shapes alone."""

    @staticmethod
    def refuses(model: Model, optim: Optim) -> str | None:
        """The option that this rung cannot do, as 'key = value', or None."""

    def load(self, tensors: Tensors) -> State:
        """Weights, and moments `m.*`, `v.*` where present (missing ones are zero), into the engine's form."""

    def dump(self, state: State) -> Tensors:
        """The engine's form back into weights and moments; `dump(load(t))` equals `t`. The state stays usable."""

    def train(self, state: State, feed: Feed, lrs: np.ndarray) -> tuple[State, np.ndarray]:
        """`len(lrs)` optimizer steps; losses float64 (n,), each before its update, mean nats a scored token.

        A step whose loss or gradient is not finite ends the call before its update: the state is the one before
        that step, and the losses end with a value that is not finite (nan where only the gradient was to blame).
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


class Rung(NamedTuple):
    """What is known of an engine before it is imported."""

    idea: str  # the one idea that its file teaches
    dtypes: tuple[str, ...]  # what it computes in, the default first
    devices: tuple[str, ...]  # where it computes, the default first
    requires: str | None  # the module that must be installed
    overhead: float  # seconds a training step costs beside its arithmetic
    flops: float  # floating-point operations a second that its arithmetic reaches


# From the slowest, which is the definition, to the fastest. The two figures of each are fitted to what
# `python -m benchmarks.sizes` measured on one core of a server CPU with 512-bit vectors, 2,000 weights to 100 million.
LADDER: dict[str, Rung] = {
    "scalar": Rung("every number remembers where it came from", ("float64",), ("cpu",), None, 0.0, 6e6),
    "functional": Rung("value and the way back; nothing is mutated", ("float64",), ("cpu",), None, 0.0, 8e7),
    "tensor": Rung("one graph node per matrix", ("float32", "float64"), ("cpu",), None, 4e-4, 4.5e10),
    "manual": Rung("no graph: the backward pass by hand", ("float32", "float64"), ("cpu",), None, 1.5e-4, 5e10),
    "fused": Rung(
        "the manual pass as compiled SIMD loops", ("float32", "float64", "bfloat16"), ("cpu",), "numba", 2e-6, 1.8e11
    ),
    "pytorch": Rung(
        "the chain rule as a library",
        ("float32", "float64", "bfloat16"),
        ("cuda", "mps", "cpu"),  # the first that is there
        "torch",
        7e-4,
        5e10,
    ),
}

# The names of the five systems that this project unites.
ALIASES = {"python": "scalar", "numpy": "manual", "numpy_batched": "manual", "numba": "fused", "torch": "pytorch"}


# What updating all weights costs, in tokens trained: it moves 28 bytes a weight while the products do arithmetic.
UPDATE = 16


class Choice(NamedTuple):
    """An engine that can compute the model, and the words why it was taken."""

    name: str
    cls: type[Engine]
    dtype: str
    device: str
    seconds_per_step: float  # estimated
    why: str


def engine(name: str) -> type[Engine]:
    """The class of a rung. Raises UsageError for an unknown name, MachineError where its library is missing."""
    rung = ALIASES.get(name, name)
    if rung not in LADDER:
        raise UsageError(f"--engine: no engine is called {name!r}; {nearest(name, {**LADDER, **ALIASES})}")
    needed = LADDER[rung].requires
    if needed and not importlib.util.find_spec(needed):
        raise MachineError(f"--engine {name}: {needed} is not installed; {install(needed)}")
    cls: type[Engine] = importlib.import_module(f"microgpt.engines.{rung}").Engine
    return cls


def choose(
    model: Model,
    optim: Optim,
    *,
    name: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    tokens_per_step: float = 1.0,
) -> Choice:
    """The engine asked for, or for `auto` the one with the shortest estimated step that can do all options.

    Raises UsageError where the engine asked for refuses an option, dtype or device; MachineError where its
    library is missing.
    """
    work = flops_per_token(model) * (tokens_per_step + UPDATE)

    def seconds(rung: str) -> float:
        return LADDER[rung].overhead + work / LADDER[rung].flops

    if name != "auto":
        rung = ALIASES.get(name, name)
        cls = engine(name)
        if problem := _refusal(rung, cls, model, optim, dtype, device):
            raise UsageError(f"--engine {name}: {problem}")
        return Choice(
            rung, cls, *_defaults(rung, dtype, device), seconds(rung), "as configured" + _remark(cls, model, dtype)
        )

    reasons = []
    for rung in sorted(LADDER, key=seconds):
        try:
            cls = engine(rung)
        except MachineError:
            reasons.append(f"{rung} is not installed")
            continue
        if problem := _refusal(rung, cls, model, optim, dtype, device):
            reasons.append(f"{rung} {problem}")
            continue
        why = "the fastest for this model here" + (f" ({'; '.join(reasons)})" if reasons else "")
        return Choice(rung, cls, *_defaults(rung, dtype, device), seconds(rung), why + _remark(cls, model, dtype))
    raise UsageError(f"--engine auto: no engine can do this: {'; '.join(reasons)}")


def _refusal(rung: str, cls: type[Engine], model: Model, optim: Optim, dtype: str, device: str) -> str | None:
    facts = LADDER[rung]
    if dtype not in ("auto", *facts.dtypes):
        return f"cannot compute in --dtype {dtype}, only in {' or '.join(facts.dtypes)}"
    if device.partition(":")[0] not in ("auto", *facts.devices):
        return f"cannot compute on --device {device}, only on {' or '.join(facts.devices)}"
    if device != "auto" and device.partition(":")[0] not in _devices(rung):
        return f"finds no {device} on this machine, only {' and '.join(_devices(rung))}"
    option = cls.refuses(model, optim)
    return f"cannot do {option}" if option else None


def _remark(cls: type[Engine], model: Model, dtype: str) -> str:
    """What an engine does otherwise than asked for, where it has something to say."""
    said = getattr(cls, "remark", lambda *_: None)(model, dtype)
    return f"; {said}" if said else ""


def _defaults(rung: str, dtype: str, device: str) -> tuple[str, str]:
    return (LADDER[rung].dtypes[0] if dtype == "auto" else dtype, _devices(rung)[0] if device == "auto" else device)


def _devices(rung: str) -> tuple[str, ...]:
    """Those of a rung's devices that this machine has; a rung with several says so itself, in `devices()`."""
    known = LADDER[rung].devices
    if len(known) == 1:
        return known
    here: tuple[str, ...] = importlib.import_module(f"microgpt.engines.{rung}").devices()
    return here
