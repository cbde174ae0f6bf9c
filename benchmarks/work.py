"""The same work for every side: a model, its first values, rows and learning rates; and the race over it."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from statistics import median

import numpy as np

from benchmarks.apart import Failed, Side, apart, timed
from benchmarks.common import Options, say
from microgpt.config import Config, Model, Optim
from microgpt.data import datasets
from microgpt.engines.ladder import Choice, choose
from microgpt.errors import MachineError, UsageError, install
from microgpt.feed import Feed, pack
from microgpt.model import Tensors, init_weights, table
from microgpt.optim import learning_rates
from microgpt.training.prepare import RunSetup, prepare

# Models that people train on a laptop. Their first values are large (standard deviation 0.08), because a race compares
# losses: with small ones attention is nearly even, and a peer could compute it wrongly unseen.
ALICE = Model(
    vocab_size=87, block_size=128, n_layer=2, n_head=4, n_embd=32, activation="relu2",
)  # fmt: skip
VIDYA = Model(
    vocab_size=580, block_size=128, n_layer=6, n_head=8, n_embd=128, position="rope", activation="gelu",
    tie_embeddings=True,
)  # fmt: skip
TEN_MILLION = Model(
    vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384, activation="gelu", norm_embedding=False,
    final_norm=True, tie_embeddings=True,
)  # fmt: skip
ADAM = Optim(learning_rate=0.001, beta1=0.9, beta2=0.99)


@dataclass(frozen=True)
class Work:
    """Steps of training that every side must take, with the same losses."""

    model: Model
    optim: Optim
    tensors: Tensors  # first values, float64
    feed: Feed
    lrs: np.ndarray  # float64 (steps,)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.lrs)

    def rectangles(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, targets (S, B, T) int32 and weights (S, B, T) float64 of all steps, padded to the longest row."""
        feed = self.feed
        T = int(np.diff(feed.offsets).max()) - 1
        B = int(np.diff(feed.steps).max())
        inputs, targets = np.zeros((2, self.steps, B, T), np.int32)
        weights = np.zeros((self.steps, B, T))
        for s in range(self.steps):
            for b, (tokens, scored) in enumerate(feed.rows(s)):
                n = len(tokens) - 1
                inputs[s, b, :n], targets[s, b, :n] = tokens[:-1], tokens[1:]
                weights[s, b, :n] = np.array(scored[1:]) / feed.targets(s)
        return inputs, targets, weights


def names_setup(options: Options) -> RunSetup:
    """The names run, ready; the quick form takes the package's own list, which needs no network."""
    layer = {"path": str(Path(datasets.__file__).with_name("given_names.txt"))} if options.quick else {}
    return prepare(Config.of("names", data=layer, run={"threads": 1}))


def names_file(options: Options) -> Path:
    """The file of names."""
    return Path(names_setup(options).documents.source) if options.quick else datasets.find("names").path


def names(rows: int, steps: int, options: Options) -> Work:
    """The names run from its first step: the first values, documents and rates of gpt.py."""
    setup = names_setup(options)
    rng = Random()
    rng.setstate(setup.rng.getstate())
    model, optim = setup.config.model, setup.config.optim
    feed = setup.corpus.feed(0, steps, rows, model.block_size)
    return Work(model, optim, init_weights(model, rng), feed, learning_rates(optim, 0, steps, steps))


def text(vocab: int, rows: int, length: int, seed: int) -> np.ndarray:
    """Tokens (rows, length) that can be learnt: after each token one of eight others, some far more likely."""
    rng = np.random.default_rng(7)  # of the language, the same for training and held-out text
    following = rng.integers(0, vocab, (vocab, 8))
    odds = np.cumsum(0.5 ** np.arange(8))
    rng = np.random.default_rng(seed)
    out = np.empty((rows, length), np.int32)
    out[:, 0] = rng.integers(0, vocab, rows)
    for t in range(1, length):
        which = np.searchsorted(odds, rng.random(rows) * odds[-1])
        out[:, t] = following[out[:, t - 1], which]
    return out


def values(model: Model, seed: int = 42) -> Tensors:
    """First values, drawn fast: every side takes them from here, so only their spread matters."""
    rng = np.random.default_rng(seed)
    return {w.name: rng.standard_normal(w.shape, np.float32).astype(np.float64) * w.std for w in table(model)}


def sized(model: Model, options: Options) -> Model:
    """The model, or in the quick form a small one with the same options."""
    return model.model_copy(update={"n_layer": 2, "n_head": 2, "n_embd": 16}) if options.quick else model


def synthetic(model: Model, rows: int, steps: int, optim: Optim = ADAM, seed: int = 1) -> Work:
    """Full rows of synthetic text."""
    tokens = text(model.vocab, rows * steps, model.block_size + 1, seed)
    feed = pack(tokens.tolist(), rows_per_step=rows)
    return Work(model, optim, values(model), feed, np.full(steps, optim.learning_rate))


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
        self.work, self.choice = work, chosen(work.model, work.optim, engine, dtype, work.feed.n_targets / work.steps)
        self.name = f"{self.choice.name} {self.choice.dtype}" + (f", {threads} threads" if threads > 1 else "")
        self.engine = self.choice.build(work.model, work.optim, threads=threads)

    def reset(self) -> None:
        self.state = self.engine.load(self.work.tensors)

    def train(self) -> np.ndarray:
        self.state, losses = self.engine.train(self.state, self.work.feed, self.work.lrs)
        return losses


def chosen(model: Model, optim: Optim, engine: str, dtype: str, tokens_per_step: float) -> Choice:
    """Our engine. Raises UsageError or MachineError where there is none for this dtype."""
    return choose(model, optim, name=engine, dtype=dtype, device="cpu", tokens_per_step=tokens_per_step)


def ours(work: Work, engine: str, dtype: str = "float32", threads: int = 1) -> Ours | None:
    """Our side, or None where it has not the dtype; `auto` is the engine that it is in float32."""
    try:
        if engine == "auto":
            per_step = work.feed.n_targets / work.steps
            engine = chosen(work.model, work.optim, engine, "float32", per_step).name
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
    raises AssertionError. A peer that cannot run here is left out and named; one that is more than twice as slow as
    the fastest peer drops out after the first round.
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
