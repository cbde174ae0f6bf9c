"""The race: our side and the peers do the same work in turn, and their losses must agree."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median

import numpy as np

from benchmarks.apart import Failed, Side, apart, timed
from benchmarks.common import Options, say
from benchmarks.work import Work
from microgpt.engines.ladder import Choice, choose
from microgpt.errors import MachineError, UsageError, install


@dataclass
class Drawing:
    """A side of a race in generation: `run` draws tokens and returns how many."""

    name: str
    run: Callable[[], int]
    drawn: int = 0

    def reset(self) -> None:
        """Nothing is carried over from run to run."""

    def train(self) -> np.ndarray:
        self.drawn = self.run()
        return np.zeros(0)


class Ours:
    """Our side: an engine through the engine line."""

    def __init__(self, work: Work, engine: str = "auto", dtype: str = "float32", threads: int = 1) -> None:
        self.work = work
        self.choice = chosen(work, engine, dtype)
        self.name = f"{self.choice.name} {self.choice.dtype}" + (f", {threads} threads" if threads > 1 else "")
        self.engine = self.choice.build(work.model, work.optim, threads=threads)

    def reset(self) -> None:
        self.state = self.engine.load(self.work.tensors)

    def train(self) -> np.ndarray:
        self.state, losses = self.engine.train(self.state, self.work.feed, self.work.lrs)
        return losses


def chosen(work: Work, engine: str, dtype: str) -> Choice:
    """Our engine. Raises UsageError or MachineError where there is none for this dtype."""
    feed = work.feed
    return choose(
        work.model,
        work.optim,
        name=engine,
        dtype=dtype,
        device="cpu",
        tokens_per_step=feed.n_targets / work.steps,
        rows_per_step=int(np.diff(feed.steps).max()),
    )


def ours(work: Work, engine: str, dtype: str = "float32", threads: int = 1) -> Ours | None:
    """Our side, or None where it has not the dtype; `auto` is the engine that it is in float32."""
    try:
        if engine == "auto":
            engine = chosen(work, engine, "float32").name
        return Ours(work, engine, dtype, threads)
    except (MachineError, UsageError) as error:
        say(f"  ours in {dtype}: {error}")
        return None


@dataclass
class Timing:
    """Seconds of each run of a side, and its losses."""

    name: str
    losses: np.ndarray
    seconds: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The fastest run."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The run in the middle."""
        return median(self.seconds)


def race(sides: Sequence[Side], options: Options, *, rtol: float = 2e-4, least: int = 5) -> list[Timing]:
    """Time the sides in turn, round after round, so that a machine that slows down slows all of them.

    The first run of each is not timed: it compiles. Losses must agree with the first side's, or the race is off:
    raises AssertionError. A peer that cannot run here, or not to finite losses, is left out and named; one that is
    more than twice as slow as the fastest peer drops out after the first round.
    """
    running: list[tuple[Side, Timing]] = []
    for side in sides:
        try:
            _, losses = timed(side, options.cpu_time)
        except Exception as error:
            if side is sides[0]:
                raise
            why = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            say(f"  {side.name}: cannot run here ({why.splitlines()[0][:160]})")
            continue
        if running and not np.isfinite(losses).all():
            say(f"  {side.name}: its losses are not finite here, so it is left out")
            continue
        same_losses(side.name, losses, running[0][1].losses if running else losses, rtol)
        running.append((side, Timing(side.name, losses)))
    done = [timing for _, timing in running]
    started, budget = time.perf_counter(), options.seconds * len(running)
    rounds = 0
    while rounds < (2 if options.quick else least) or time.perf_counter() - started < budget:
        for side, timing in running:
            timing.seconds.append(timed(side, options.cpu_time)[0])
        rounds += 1
        if rounds == 1 and len(running) > 2:
            fastest = min(timing.best for _, timing in running[1:])
            running = [pair for i, pair in enumerate(running) if i == 0 or pair[1].best < 2 * fastest]
            budget = options.seconds * len(running)
        if rounds >= 1000:
            break
    for timing in done:
        say(f"  {timing.name:32} best {timing.best * 1e3:10.3f} ms  median {timing.median * 1e3:10.3f} ms")
    return done


def same_losses(name: str, theirs: np.ndarray, first: np.ndarray, rtol: float) -> None:
    """Raise AssertionError where a side's losses are not those of the first: it does other work."""
    if not len(theirs) or not len(first):
        return
    off = float(np.abs(theirs / first - 1).max())
    assert off <= rtol, f"{name}: losses differ from ours by {off:.1e}, so the work is not the same"


def fastest(timings: Sequence[Timing]) -> Timing | None:
    """The best of several sides, or None of none."""
    return min(timings, key=lambda t: t.best) if timings else None


def peers(work: Work, options: Options) -> list[Side]:
    """PyTorch and JAX on this work, in every form that a good user would try, each library in a process of its own.

    A library that is missing is said.
    """
    found: list[Side] = []
    if options.peers and installed("torch"):
        found += apart(torch_sides, work, not options.quick)
    if options.peers and installed("jax"):
        found += apart(jax_sides, work)
    return found


def torch_sides(work: Work, compiled: bool) -> list[Side]:
    """PyTorch's."""
    from benchmarks.peers import torch_gpt

    return torch_gpt.sides(work, compiled)


def jax_sides(work: Work) -> list[Side]:
    """JAX's."""
    from benchmarks.peers import jax_gpt

    return jax_gpt.sides(work)


@lru_cache(maxsize=8)
def installed(module: str) -> bool:
    """Whether a peer's library is here; says so where not."""
    if importlib.util.find_spec(module):
        return True
    say(f"  {module} is not installed, so it is left out: {install('bench')}")
    return False
