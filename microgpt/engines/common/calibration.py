"""How long a training step takes on this machine: measured once per engine, then kept in the user's cache folder.

A few models of different size take steps of a few, some and many tokens. The time for another model and another number
of tokens is interpolated between those, linearly in the logarithms. A file that is damaged, or was written by another
version or on another CPU, counts for nothing. Where no file can be written, the figures live in this process alone.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

import microgpt
from microgpt import files
from microgpt.config import Model, Optim
from microgpt.engines import Engine, State
from microgpt.engines.common.hardware import identity
from microgpt.errors import CheckpointError
from microgpt.feed import Feed, pack
from microgpt.model import Tensors, n_params, table

Points = list[tuple[float, float]]  # x and y, both positive, x ascending
Figures = list[tuple[int, Points]]  # for each measured model its parameters, and seconds per step over tokens per step

MODELS = (  # the one between comes last, since without it two others are left to interpolate between
    Model(vocab_size=27),
    Model(vocab_size=580, n_layer=6, n_embd=128, n_head=8, block_size=128, position="rope", activation="gelu"),
    Model(vocab_size=65, n_layer=2, n_embd=32, n_head=4, block_size=64),
)
TOKENS = (4, 32, 256)  # per step, in rows of at most 32
BUDGET = 0.5  # seconds per engine, without compiling its kernels and loading its libraries
BUSY = 3  # times the budget that may pass on a machine that is busy with other work
POINT = 0.02  # seconds per point, of which the fastest call counts
CALL = 0.002  # seconds per call, so that a call's own cost is divided among its steps as it is in a run

_unsaved: dict[str, Figures] = {}


class _Budget:
    """Time to measure in: this thread's own on a CPU, which on an idle machine is the clock's and on a busy one what
    the clock's would be without the other work."""

    def __init__(self, device: str) -> None:
        self.clock = time.thread_time if device == "cpu" else time.perf_counter
        self.end, self.latest = self.clock() + BUDGET, time.perf_counter() + BUSY * BUDGET

    def has(self, seconds: float) -> bool:
        """Whether this much is left."""
        return self.clock() + seconds <= self.end and time.perf_counter() + seconds <= self.latest


def measure(cls: type[Engine], dtype: str, device: str) -> Figures:
    """Train each of MODELS for a moment. Models and numbers of tokens that would exceed the budget are left out."""
    cls(MODELS[0], Optim(), dtype=dtype, device=device)  # compiles kernels and loads libraries
    budget, found = _Budget(device), Figures()
    for model in MODELS:
        if found and not budget.has(estimate(found, n_params(model), TOKENS[0])):
            continue
        engine = cls(model, Optim(), dtype=dtype, device=device)
        state = engine.load(_weights(model))
        points: Points = []
        for tokens in TOKENS:
            if points and not budget.has(interpolate(points, tokens) / 2):  # more tokens at once take less time each
                break
            state, seconds = _fastest(engine, state, model, tokens, budget)
            points.append((tokens, seconds))
        found = sorted([*found, (n_params(model), points)])
    return found


def _fastest(engine: Engine, state: State, model: Model, tokens: int, budget: _Budget) -> tuple[State, float]:
    """The state after some steps, and the seconds per step of the fastest of several calls."""
    steps, calls, best, stop = 1, 0, math.inf, budget.clock() + POINT
    while calls == 0 or ((calls == 1 or budget.clock() < stop) and budget.has(best * steps)):
        feed, rates = _feed(model, tokens, steps), np.zeros(steps)
        start = budget.clock()
        state, _ = engine.train(state, feed, rates)
        spent, calls = budget.clock() - start, calls + 1
        best = min(best, spent / steps)
        if spent < CALL and steps < 512:
            steps *= 2
    return state, best


def _weights(model: Model) -> Tensors:
    rng = np.random.default_rng(1)
    return {w.name: (rng.random(w.shape, np.float32) - 0.5) * w.std for w in table(model)}


def _feed(model: Model, tokens: int, steps: int) -> Feed:
    length = min(tokens, 32, model.block_size)
    rows = np.random.default_rng(1).integers(0, model.vocab, (steps * tokens // length, length + 1))
    return pack(rows.tolist(), rows_per_step=tokens // length)


def estimate(figures: Figures, parameters: int, tokens: float) -> float:
    """Seconds per training step of a model with this many parameters."""
    return interpolate([(n, interpolate(points, tokens)) for n, points in figures], parameters)


def interpolate(points: Sequence[tuple[float, float]], x: float) -> float:
    """y at x: linear in log x and log y between two points, constant before the first, proportional to x after the
    last."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            share = math.log(x / x0) / math.log(x1 / x0)
            return math.exp((1 - share) * math.log(y0) + share * math.log(y1))
    return points[-1][1] * x / points[-1][0]


def key(name: str, dtype: str, device: str) -> str:
    """The name of an engine's figures."""
    return f"{name} {dtype} {device}"


def path() -> Path:
    """The file of this CPU and version."""
    return files.cache_folder("speed") / f"{hashlib.sha256(_origin().encode()).hexdigest()[:16]}.json"


def _origin() -> str:
    return f"microgpt {microgpt.__version__}\n{identity()}"


def read() -> dict[str, Figures]:
    """The figures measured so far, by `key`."""
    return _stored() | _unsaved


def _stored() -> dict[str, Figures]:
    try:
        content = files.read_json(path())
        if content["origin"] != _origin():
            return {}
        return {name: [_curve(*entry) for entry in figures] for name, figures in content["figures"].items() if figures}
    except (CheckpointError, AttributeError, KeyError, TypeError, ValueError):
        return {}


def _curve(parameters: int, points: list[list[float]]) -> tuple[int, Points]:
    """The figures of one model, checked. Raises TypeError or ValueError."""
    curve = [(float(tokens), float(seconds)) for tokens, seconds in points]
    if not curve or not all(0 < value < math.inf for value in (parameters, *chain(*curve))):
        raise ValueError("not figures")
    return int(parameters), curve


def write(name: str, figures: Figures) -> None:
    """Keep the figures of one engine beside those of others."""
    content = {"origin": _origin(), "figures": _stored() | {name: figures}}
    try:
        files.make_folders(path().parent)
        files.write_atomic(path(), files.to_json(content))
    except OSError:
        _unsaved[name] = figures
