"""Losses to beat: those of a uniform, a unigram and a bigram model of the text that a run is trained on.

The unigram model counts tokens, plus one each (Laplace). The bigram model counts pairs, smoothed by Witten and Bell
(1991, IEEE Trans. Inf. Theory 37(4)): p(b | a) = (n(ab) + T(a) p(b)) / (n(a) + T(a)), T(a) tokens that follow a, and
the unigram p(b); after a token that was never seen, it is p(b). Both are fitted on the part that is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from microgpt.config import Data
from microgpt.data.here import here, sources_of
from microgpt.data.load import load
from microgpt.errors import DataError
from microgpt.feed import Feed
from microgpt.runs import checkpoint

MOST_BYTES = 2**26  # of a text that is read for this
MOST_TARGETS = 2**23  # tokens that are counted, and that are measured
ROWS = 4096  # of training per feed


class Pairs(NamedTuple):
    """Scored tokens and the tokens before them, int64 (N,)."""

    before: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Baselines:
    """Mean losses in nats per token, of the same targets that a model is measured on."""

    uniform: float  # ln V
    unigram: float
    bigram: float
    on: str  # "held-out" or "training": the part of the text that they are measured on


def baselines(path: Path) -> Baselines:
    """The losses to beat of a run, from its own data. Downloads nothing.

    Raises DataError with the reason where they cannot be told, CheckpointError, UsageError or OSError as reading does.
    """
    saved = checkpoint.read(path)
    config, data, tokenizer = saved.config, saved.config.data, saved.tokenizer
    if data.val_path:
        near(data.model_copy(update={"path": data.val_path}))
    data = near(data)
    block = config.model.block_size
    corpus = load(data, block, tokenizer).split(Random(config.run.seed), data.val_fraction or 0.0)
    validation = corpus
    if data.val_path:
        other = data.model_copy(update={"path": data.val_path, "drop_duplicates": False})
        validation = load(other, block, tokenizer).held_out()
    known = saved.state.get("data", {}).get("sha256")
    if known not in (None, corpus.fingerprint) and not config.finetune.replay:
        raise DataError("the text is no longer the one that the run was trained on")
    n_rows = corpus.n_rows(block)
    training = pairs(corpus.feed(row, min(ROWS, n_rows - row), 1, block) for row in range(0, n_rows, ROWS))
    held = pairs(validation.held_out(block)) if validation.n_held_out else None
    measured = held if held and len(held.target) else training
    vocabulary = tokenizer.vocab_size
    unigram, bigram = ngram_losses(training, measured, vocabulary)
    return Baselines(math.log(vocabulary), unigram, bigram, "training" if measured is training else "held-out")


def near(data: Data) -> Data:
    """The section to read, as `here` gives it. Raises DataError also for a text that is too long to count."""
    if sum(source.size for source in sources_of(data)) > MOST_BYTES:
        raise DataError(f"the text is longer than {MOST_BYTES >> 20} MiB")
    return here(data)


def pairs(feeds: Iterable[Feed]) -> Pairs:
    """The scored tokens of feeds, up to MOST_TARGETS, with the tokens before them."""
    before, target, n = [], [], 0
    for feed in feeds:
        at = np.flatnonzero(feed.scored)
        before.append(feed.tokens[at - 1].astype(np.int64))
        target.append(feed.tokens[at].astype(np.int64))
        n += len(at)
        if n >= MOST_TARGETS:
            break
    none = np.zeros(0, np.int64)
    return Pairs(np.concatenate([none, *before]), np.concatenate([none, *target]))


def ngram_losses(training: Pairs, measured: Pairs, vocabulary: int) -> tuple[float, float]:
    """The mean losses of the unigram and the bigram model on `measured`, in nats per token."""
    counts = np.bincount(training.target, minlength=vocabulary)
    unigram = (counts + 1) / (counts.sum() + vocabulary)
    seen, times = np.unique(training.before * vocabulary + training.target, return_counts=True)
    after = np.bincount(training.before, minlength=vocabulary)  # n(a)
    kinds = np.bincount(seen // vocabulary, minlength=vocabulary)  # T(a)
    wanted = measured.before * vocabulary + measured.target
    at = np.minimum(np.searchsorted(seen, wanted), max(0, len(seen) - 1))
    both = np.where(seen[at] == wanted, times[at], 0) if len(seen) else np.zeros(len(wanted))
    p, n, kind = unigram[measured.target], after[measured.before], kinds[measured.before]
    smoothed = np.where(n > 0, (both + kind * p) / np.maximum(n + kind, 1), p)
    return float(-np.log(p).mean()), float(-np.log(smoothed).mean())
