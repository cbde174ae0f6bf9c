"""The same work for every side of a race: a model, its initial weights, rows and learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.common import Options
from microgpt.config import Config, Model, Optim
from microgpt.data import datasets
from microgpt.feed import Feed, pack
from microgpt.model import Tensors, init_weights, table
from microgpt.optim import learning_rates
from microgpt.training.prepare import RunSetup, prepare

# Models for a laptop. Their initial weights are large (standard deviation 0.08), because a race compares
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
    tensors: Tensors  # initial weights, float64
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
    return Path(names_setup(options).documents.source) if options.quick else datasets.find("names")[0]


def names(rows: int, steps: int, options: Options) -> Work:
    """The names run from its first step: the initial weights, documents and rates of gpt.py."""
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
    """Initial weights, drawn fast: every side takes them from here, so only their spread matters."""
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
