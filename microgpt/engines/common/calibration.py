"""How long a training step takes on this machine: measured once per engine, then kept in the user's cache folder.

A few models of different size take steps of a few, some and many tokens. The time for another number of tokens is
interpolated linearly, that for another size linearly in the logarithms. A file that is damaged or of another version or
CPU is ignored. Where no file can be written, the figures live in this process alone.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from microgpt import files
from microgpt.config import Model, Optim
from microgpt.engines import Engine, State
from microgpt.engines.common.hardware import identity
from microgpt.errors import CheckpointError
from microgpt.feed import Feed, pack
from microgpt.model import Tensors, n_params, table

Scale = Callable[[float], float]
Points = list[tuple[float, float]]  # x and y, both positive, x ascending
# For each measured model its parameters, the seconds per step over the tokens of one row, and how many times less time
# a token takes in many rows, which an engine may divide among threads.
Figures = list[tuple[int, Points, float]]

VERSION = 3  # of the figures: to be raised when others are measured, or an engine becomes faster
MODELS = (  # the one between comes last, since without it two others are left to interpolate between
    Model(vocab_size=27, block_size=32),
    Model(vocab_size=580, n_layer=6, n_embd=128, n_head=8, block_size=128, position="rope", activation="gelu"),
    Model(vocab_size=65, n_layer=2, n_embd=32, n_head=4, block_size=64),
)
TOKENS = (4, 32, 128)  # per step, in one row where the model's context allows
ROWS = (8, 32)  # many rows, and tokens in each
BUDGET = 0.6  # seconds per engine, without compiling its kernels and loading its libraries
BUSY = 3  # the most that the clock may show, in budgets, on a machine that is busy with other work
POINT = 0.02  # seconds per point, of which the fastest call counts
CALL = 0.002  # seconds per call, so that a call's own cost is divided among its steps as it is in a run

_unsaved: dict[str, Figures] = {}


class _Budget:
    """The time that is left to measure in.

    On a CPU it is this thread's own time: on an idle machine the same as the clock's, and on a busy one without the
    time that other programs take.
    """

    def __init__(self, device: str) -> None:
        self.clock = time.thread_time if device == "cpu" else time.perf_counter
        self.end, self.latest = self.clock() + BUDGET, time.perf_counter() + BUSY * BUDGET

    def has(self, seconds: float) -> bool:
        """Whether this much is left."""
        return self.clock() + seconds <= self.end and time.perf_counter() + seconds <= self.latest


def measure(cls: type[Engine], dtype: str, device: str) -> Figures:
    """Train each of MODELS for a moment. Models and numbers of tokens that would exceed the budget are left out.

    They take turns twice, and the faster time counts: a shared machine changes its pace from one moment to the next.
    """
    cls(MODELS[0], Optim(), dtype=dtype, device=device)  # compiles kernels and loads libraries
    budget, times = _Budget(device), dict[Model, dict[tuple[int, int], float]]()
    for model in MODELS * 2:
        known = times.get(model, {})
        if times and not budget.has(known.get((1, TOKENS[0])) or estimate(_figures(times), n_params(model), TOKENS[0])):
            continue
        times[model] = _times(cls(model, Optim(), dtype=dtype, device=device), model, budget, known)
    return _figures(times)


def _times(
    engine: Engine, model: Model, budget: _Budget, known: dict[tuple[int, int], float]
) -> dict[tuple[int, int], float]:
    """The seconds per step by rows and tokens in each; the smaller where they are known.

    Of two numbers of tokens at least: one of a few tokens, on a busy machine, would be multiplied for many.
    """
    state, times, points = engine.load(sample_weights(model)), dict(known), Points()
    for tokens in TOKENS:
        if len(points) > 1 and not budget.has(interpolate(points, tokens) / 2):  # more tokens take less time each
            return times
        state, seconds = _fastest(engine, state, model, (1, tokens), budget)
        points.append((tokens, seconds))
        times[1, tokens] = min(seconds, times.get((1, tokens), math.inf))
    if budget.has(interpolate(points, math.prod(ROWS))):
        state, seconds = _fastest(engine, state, model, ROWS, budget)
        times[ROWS] = min(seconds, times.get(ROWS, math.inf))
    return times


def _figures(times: dict[Model, dict[tuple[int, int], float]]) -> Figures:
    found = []
    for model, known in times.items():
        points = [(float(tokens), seconds) for (rows, tokens), seconds in known.items() if rows == 1]
        many = interpolate(points, math.prod(ROWS))
        found.append((n_params(model), points, many / known.get(ROWS, many)))
    return sorted(found)


def _fastest(engine: Engine, state: State, model: Model, rows: tuple[int, int], budget: _Budget) -> tuple[State, float]:
    """The state after some steps of so many rows of so many tokens, and the seconds per step of the fastest call."""
    steps, calls, best, stop = 1, 0, math.inf, budget.clock() + POINT
    while calls == 0 or ((calls == 1 or budget.clock() < stop) and budget.has(best * steps)):
        feed, rates = sample_feed(model, *rows, steps), np.zeros(steps)
        start = budget.clock()
        state, _ = engine.train(state, feed, rates)
        spent, calls = budget.clock() - start, calls + 1
        best = min(best, spent / steps)
        if spent < CALL and steps < 512:
            steps *= 2
    return state, best


def sample_weights(model: Model) -> Tensors:
    """Weights to measure with."""
    rng = np.random.default_rng(1)
    return {w.name: (rng.random(w.shape, np.float32) - 0.5) * w.std for w in table(model)}


def sample_feed(model: Model, rows: int, length: int, steps: int) -> Feed:
    """Steps of random tokens, so many rows of `length` each, in more rows where the context is shorter."""
    short = min(length, model.block_size)
    rows = rows * length // short
    tokens = np.random.default_rng(1).integers(0, model.vocab, (steps * rows, short + 1))
    return pack(tokens.tolist(), rows_per_step=rows)


def estimate(figures: Figures, parameters: int, tokens: float, rows: int = 1) -> float:
    """Seconds per training step of a model with this many parameters, on so many tokens in so many rows."""
    points = [(n, interpolate(curve, tokens) / (gain if rows > 1 else 1.0)) for n, curve, gain in figures]
    return interpolate(points, parameters, math.log, math.exp)


def interpolate(points: Sequence[tuple[float, float]], x: float, scale: Scale = float, back: Scale = float) -> float:
    """y at x: linear between two points in the given scale, whose inverse is `back`; constant before the first point,
    proportional to x after the last."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            share = (scale(x) - scale(x0)) / (scale(x1) - scale(x0))
            return back((1 - share) * scale(y0) + share * scale(y1))
    return points[-1][1] * x / points[-1][0]


def key(name: str, dtype: str, device: str) -> str:
    """The name of an engine's figures."""
    return f"{name} {dtype} {device}"


def path() -> Path:
    """The file of this CPU and version."""
    return files.cache_folder("speed") / f"{hashlib.sha256(_origin().encode()).hexdigest()[:16]}.json"


def _origin() -> str:
    return f"{VERSION}\n{identity()}"


def read() -> dict[str, Figures]:
    """The figures measured so far, by `key`."""
    return _stored() | _unsaved


def _stored() -> dict[str, Figures]:
    try:
        content = files.read_json(path())
        if content["origin"] != _origin():
            return {}
        return {
            name: [_checked(*entry) for entry in figures] for name, figures in content["figures"].items() if figures
        }
    except (CheckpointError, AttributeError, KeyError, TypeError, ValueError):
        return {}


def _checked(parameters: int, points: list[list[float]], gain: float) -> tuple[int, Points, float]:
    """The figures of one model. Raises TypeError or ValueError."""
    curve = [(float(tokens), float(seconds)) for tokens, seconds in points]
    if not curve or not all(0 < value < math.inf for value in (parameters, gain, *chain(*curve))):
        raise ValueError("not figures")
    return int(parameters), curve, float(gain)


def write(name: str, figures: Figures) -> None:
    """Keep the figures of one engine beside those of others."""
    content = {"origin": _origin(), "figures": _stored() | {name: figures}}
    try:
        files.make_folders(path().parent)
        files.write_atomic(path(), files.to_json(content))
    except OSError:
        _unsaved[name] = figures
