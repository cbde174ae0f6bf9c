"""Measuring the fields of a plan that no cache size tells: a short search, once per CPU and float type, then kept.

Two models of a layer or two, as wide as the small and the large ones that a CPU trains, take steps with one value of a
field after the other, in turn; the fastest value is kept where it gains more than noise. Models below MIN_TUNED weights
stay in the nearest caches, and take the reckoned plan. A file that is damaged or of another CPU is ignored. Where the
CPU has AVX-512, the search begins with the width of vectors that widths.py found to be faster.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.config import Model, Optim
from microgpt.engines.common.calibration import sample_feed, sample_weights
from microgpt.engines.common.hardware import identity
from microgpt.engines.fused.plan import Plan, reckoned
from microgpt.engines.fused.widths import narrower
from microgpt.errors import CheckpointError, UsageError
from microgpt.model import n_params
from microgpt.progress import ProgressCallback, no_progress

VERSION = 2  # to be raised when a kernel changes what is fast
MIN_TUNED = 100_000
BUDGET = 4.3  # seconds, of the 5 that are promised; a step that began ends behind it
GAIN = 0.02  # what a value must gain over the one it replaces, more than noise
MODELS = {  # by width, with the rows of a step
    128: (Model(vocab_size=256, n_layer=2, n_embd=128, n_head=8, block_size=128, position="rope"), 4),
    384: (Model(vocab_size=64, n_layer=1, n_embd=384, n_head=6, block_size=128, position="rope"), 4),
}
VALUES = {  # tried in this order
    "positions": (128, 256, 512),
    "pack": (128, 256, 1 << 20),
    "prefetch": (1, 0),
    "max_deferred": (4_000_000, 0),
}


def kept(dtype: str, model: Model, vector: int) -> Plan:
    """The plan of this machine for a model: measured where it was, else reckoned; vectors have `vector` bytes."""
    plan = reckoned(8 if dtype == "float64" else 4, vector)
    try:
        return plan.with_fields(measured(dtype, model))
    except UsageError:
        return plan


def measured(dtype: str, model: Model) -> dict[str, int]:
    """The fields of a model's plan that were measured on this machine, where they differ from the reckoned ones."""
    return _read().get(dtype, {}).get(str(nearest(model.n_embd)), {}) if n_params(model) >= MIN_TUNED else {}


def nearest(width: int) -> int:
    """The measured width that is next to this one, on a logarithmic scale."""
    return min(MODELS, key=lambda other: abs(math.log(other / width)))


def measure(cls: Any, dtype: str, model: Model, progress: ProgressCallback = no_progress) -> None:
    """Search the plan of an engine for every width, and keep it, unless that was done or the model needs none."""
    if n_params(model) < MIN_TUNED or set(map(str, MODELS)) <= _read().get(dtype, {}).keys():
        return
    first = narrower(dtype)
    cls(MODELS[128][0], Optim(), dtype=dtype, threads=1, plan=first)  # compiles kernels that are not there
    end = time.perf_counter() + BUDGET
    found = {}
    for number, (width, (sample, rows)) in enumerate(MODELS.items(), 1):
        share = (end - time.perf_counter()) * number / len(MODELS)
        progress(f"measure the kernels' plan for {dtype} and models {width} wide on this machine, once", None)
        found[str(width)] = _search(cls, dtype, sample, rows, time.perf_counter() + share, first)
    content = {"origin": _origin(), "plans": _read() | {dtype: found}}
    try:
        files.make_folders(path().parent)
        files.write_atomic(path(), files.to_json(content))
    except OSError:
        _unsaved.update({dtype: found})


_unsaved: dict[str, Any] = {}


def _search(cls: Any, dtype: str, model: Model, rows: int, end: float, first: Mapping[str, int]) -> dict[str, int]:
    """The fields that differ from the reckoned plan: the `first`, then others, one by one until the time is over."""
    feed, rates, best = sample_feed(model, rows, model.block_size, 1), np.zeros(1), dict(first)
    for name, values in VALUES.items():
        if time.perf_counter() >= end:
            break
        current = getattr(cls(model, Optim(), dtype=dtype, threads=1, plan=best).sizes, name)
        order = [current, *(value for value in values if value != current)]
        engines = [cls(model, Optim(), dtype=dtype, threads=1, plan=best | {name: value}) for value in order]
        states = [engine.load(sample_weights(model)) for engine in engines]
        times = [math.inf] * len(order)
        share = time.perf_counter() + (end - time.perf_counter()) / (len(VALUES) - list(VALUES).index(name))
        for turn in _turns(share):
            for i, engine in enumerate(engines):
                start = time.perf_counter()
                engine.train(states[i], feed, rates)
                times[i] = min(times[i], time.perf_counter() - start) if turn else math.inf
        fastest = min(range(len(order)), key=times.__getitem__)
        if times[fastest] < (1 - GAIN) * times[0]:
            best[name] = order[fastest]
    return best


def _turns(end: float) -> Iterator[int]:
    """Numbers of turns until a time; at least one behind the first, which warms up."""
    turn, longest = 0, 0.0
    while turn < 2 or time.perf_counter() + longest < end:
        start = time.perf_counter()
        yield turn
        turn, longest = turn + 1, max(longest, time.perf_counter() - start)


def path() -> Path:
    """The file of this CPU, beside the compiled kernels."""
    return files.cache_folder("plans") / f"{hashlib.sha256(_origin().encode()).hexdigest()[:16]}.json"


def _origin() -> str:
    return f"{VERSION}\n{identity()}"


def _read() -> dict[str, dict[str, dict[str, int]]]:
    """The measured fields by float type and width."""
    try:
        content = files.read_json(path())
        plans = content["plans"] if content["origin"] == _origin() else {}
        return {d: {w: {k: int(v) for k, v in p.items()} for w, p in by.items()} for d, by in plans.items()} | _unsaved
    except (CheckpointError, AttributeError, KeyError, TypeError, ValueError):
        return dict(_unsaved)
