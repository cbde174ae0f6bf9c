"""Neurons of the MLPs: how strongly each fires on sample texts, and the texts that make it fire most."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from microgpt.data.sample import sample_rows
from microgpt.errors import DataError, UsageError
from microgpt.inference.generate import generate_tokens
from microgpt.inference.inspection import Inspector
from microgpt.model import n_params

MOST_POSITIONS = 4096
MOST_WORK = 1e11  # operations of all forward passes
GENERATED_POSITIONS = 512

SampleSource = Literal["data", "generated"]


class Example(NamedTuple):
    """A text that makes a neuron fire."""

    tokens: list[int]
    values: np.ndarray  # of the neuron after each token
    peak: int  # the position of the largest


class Firing:
    """All neurons on sample texts: the largest value of each in every text, and how often each is above 0.

    The first position is left out: a neuron is the same there in every text. Raises DataError without a text.
    """

    def __init__(self, inspector: Inspector) -> None:
        self._inspector, model = inspector, inspector.model
        self.source, self.texts = texts(inspector)
        if not self.texts:
            raise DataError("neurons: neither the data nor the model gave a text of two tokens")
        shape = model.n_layer, 4 * model.n_embd
        self.positions = sum(len(text) - 1 for text in self.texts)
        self.peaks = np.full((len(self.texts), *shape), -np.inf, np.float32)  # by text, layer, neuron
        above = np.zeros(shape, np.int64)
        for text, peaks in zip(self.texts, self.peaks, strict=True):
            found = inspector.compute(text)
            for layer in range(model.n_layer):
                fired = found[f"layer{layer}.mlp"][1:]
                peaks[layer] = fired.max(axis=0)
                above[layer] += (fired > 0).sum(axis=0)
        self.share = above / max(1, self.positions)  # of the positions, by layer and neuron

    def examples(self, layer: int, neuron: int, n: int) -> list[Example]:
        """The n texts with the largest values, the largest first; none twice."""
        order = np.argsort(-self.peaks[:, layer, neuron], kind="stable")
        found: dict[tuple[int, ...], Example] = {}
        for i in order.tolist():
            tokens = self.texts[i]
            if tuple(tokens) not in found:
                values = self._inspector.activations(tokens)[f"layer{layer}.mlp"][:, neuron]
                found[tuple(tokens)] = Example(tokens, values, 1 + int(values[1:].argmax()))
            if len(found) == n:
                break
        return list(found.values())


def texts(inspector: Inspector) -> tuple[SampleSource, list[list[int]]]:
    """Rows of two or more tokens within the budget, and where they are from: the run's data, else the model itself."""
    source, model = inspector.source, inspector.model
    budget = max(2 * model.block_size, min(MOST_POSITIONS, int(MOST_WORK / (2 * n_params(model)))))
    try:
        rows = sample_rows(source.config.data, source.tokenizer, model.block_size, budget)
    except (DataError, UsageError, OSError):
        rows = []
    if rows := within(rows, budget):
        return "data", rows
    return "generated", within(generated(inspector), budget)


def generated(inspector: Inspector) -> list[list[int]]:
    """Texts that the model generates, from seed 0 on."""
    source, block, left = inspector.source, inspector.model.block_size, GENERATED_POSITIONS
    rng, sampling, bos = source.rng(0), source.sampling(), source.tokenizer.bos
    rows = []
    while left > 0:
        drawn = generate_tokens(inspector.engine, inspector.state(), [bos], block, sampling, rng, bos)
        rows.append([bos, *itertools.islice(drawn, min(left, block - 1))])
        left -= len(rows[-1])
    return rows


def within(rows: Sequence[list[int]], positions: int) -> list[list[int]]:
    """The first rows, as many as fit in a number of positions, one at least; rows of one token are left out."""
    found: list[list[int]] = []
    for row in rows:
        if len(row) > 1:
            positions -= len(row)
            if positions < 0 and found:
                break
            found.append(row)
    return found


def effect(inspector: Inspector, layer: int, neuron: int) -> np.ndarray:
    """Directions (V,): what one unit of a neuron adds to each logit directly, before the final norm and the cap."""
    head = inspector.weights["wte" if inspector.model.tie_embeddings else "lm_head"]
    column = inspector.weights[f"layer{layer}.mlp_fc2"][:, neuron]
    return np.asarray(head @ column)
