"""A look inside a loaded model: its activations, and the logit lens on its residual stream."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from microgpt.config import Model
from microgpt.engines import Activations, State
from microgpt.engines.ladder import inspecting
from microgpt.inference.interventions import Change, apply
from microgpt.inference.language_model import LanguageModel
from microgpt.model import Tensors, table

KEPT = 2  # results that are kept: one text, with and without changes


class Inspector:
    """A model on an engine that shows its activations. For any number of threads; it computes one text at a time."""

    def __init__(self, source: LanguageModel) -> None:
        self.source, self.model = source, source.config.model
        dumped = source.engine.dump(source.state)
        self.weights: Tensors = {w.name: dumped[w.name] for w in table(self.model)}
        self.engine = inspecting(self.model, source.config.optim, str(self.weights["wte"].dtype))
        self._lock = threading.Lock()
        self._states: dict[tuple[Change, ...], State] = {}
        self._seen: dict[tuple[tuple[int, ...], tuple[Change, ...]], Activations] = {}  # the latest last

    def activations(self, tokens: Sequence[int], changes: Sequence[Change] = ()) -> Activations:
        """All activations of 1 to block_size tokens by name, see microgpt.engines.Engine.inspect; not to be changed.

        Raises UsageError for a change of a part that the model lacks.
        """
        asked = tuple(tokens), tuple(changes)
        with self._lock:
            found = self._seen.pop(asked, None)
            self._seen[asked] = found = self.compute(*asked) if found is None else found
            if len(self._seen) > KEPT:
                del self._seen[next(iter(self._seen))]
        return found

    def compute(self, tokens: Sequence[int], changes: tuple[Change, ...] = ()) -> Activations:
        """As `activations`, but nothing is kept, and for one thread."""
        assert self.engine.inspect
        return self.engine.inspect(self.state(changes), np.array(tokens))

    def state(self, changes: tuple[Change, ...] = ()) -> State:
        """The engine's state of the weights with changes; that without any and the last one with some are kept."""
        state = self._states.get(changes)
        if state is None:
            state = self.engine.load(apply(self.weights, self.model, changes))
            self._states = {made: kept for made, kept in self._states.items() if not made} | {changes: state}
        return state


def stages(model: Model) -> list[str]:
    """The names of the residual stream's activations, from the embedding on."""
    parts = ("after_attention", "after_mlp")
    return ["embedding", *(f"layer{i}.{part}" for i in range(model.n_layer) for part in parts)]


def lens(model: Model, weights: Tensors, x: np.ndarray) -> np.ndarray:
    """The logits (T, V) that the model would give if a residual stream (T, D) were its last.

    The logit lens (nostalgebraist 2020, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru): final norm and output
    head, applied at every stage. At the last one these are the model's own logits.
    """
    if model.final_norm:
        x = x * (1.0 / np.sqrt(np.einsum("td,td->t", x, x)[:, None] / x.shape[-1] + 1e-5))
    logits: np.ndarray = x @ weights["wte" if model.tie_embeddings else "lm_head"].T
    return model.softcap * np.tanh(logits / model.softcap) if model.softcap else logits


def probabilities(logits: np.ndarray) -> np.ndarray:
    """softmax over the last axis, float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def likeliest(p: np.ndarray, k: int) -> np.ndarray:
    """The ids (…, min(k, V)) of the largest of the last axis, the largest first."""
    k = min(k, p.shape[-1])
    found = np.sort(np.argpartition(-p, k - 1, axis=-1)[..., :k], axis=-1)
    order = np.argsort(-np.take_along_axis(p, found, -1), axis=-1, kind="stable")
    return np.take_along_axis(found, order, -1)
