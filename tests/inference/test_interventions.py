"""A part that is scaled or off, against what it adds to the residual stream computed directly."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.engines import Activations
from microgpt.engines.ladder import inspecting
from microgpt.errors import UsageError
from microgpt.inference.interventions import Change, apply
from microgpt.model import Tensors, init_weights
from tests.engines.ladder import CASES, small

OPTIONS = ["modern", "nanochat", "relu2", "gelu", "tied", "softcap", "everything"]
CHANGES = [
    [Change("head", 1, 0)],
    [Change("head", 0, 1, 0.25), Change("head", 0, 1, 2.0)],
    [Change("attention", 1)],
    [Change("mlp", 0)],
    [Change("layer", 1)],
    [Change("layer", 0), Change("layer", 1)],
    [Change("neuron", 0, 9, -3.0), Change("neuron", 0, 31), Change("head", 1, 1)],
    [],
]


def run(model: Model, weights: Tensors) -> Activations:
    engine = inspecting(model, Optim(), "float64")
    assert engine.inspect
    tokens = np.array([Random(5).randrange(model.vocab) for _ in range(model.block_size)])
    return engine.inspect(engine.load(weights), tokens)


def factors(model: Model, changes: list[Change], layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every head and every neuron of a layer."""
    heads, neurons = np.ones(model.n_head), np.ones(4 * model.n_embd)
    for change in changes:
        if change.layer == layer:
            if change.part in ("layer", "attention"):
                heads *= change.scale
            if change.part in ("layer", "mlp"):
                neurons *= change.scale
            if change.part == "head":
                heads[change.index] *= change.scale
            if change.part == "neuron":
                neurons[change.index] *= change.scale
    return heads, neurons


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(change.part for change in changes) or "none")
@pytest.mark.parametrize("case", OPTIONS)
def test_a_change_is_what_the_part_adds_times_its_factor(case: str, changes: list[Change]) -> None:
    model = small(**{**CASES[case].model, "n_layer": 2, "residual_init": "same"})
    w = init_weights(model, Random(1))
    found, before = run(model, apply(w, model, changes)), run(model, w)
    x = before["embedding"]
    np.testing.assert_array_equal(found["embedding"], x)
    for i in range(model.n_layer):
        heads, neurons = factors(model, changes, i)
        mix = (found[f"layer{i}.mix"] * heads[:, None, None]).transpose(1, 0, 2).reshape(len(x), -1)
        x = x + mix @ w[f"layer{i}.attn_wo"].T
        np.testing.assert_allclose(found[f"layer{i}.after_attention"], x, rtol=0, atol=1e-12)
        x = x + (found[f"layer{i}.mlp"] * neurons) @ w[f"layer{i}.mlp_fc2"].T
        np.testing.assert_allclose(found[f"layer{i}.after_mlp"], x, rtol=0, atol=1e-12)
        x = found[f"layer{i}.after_mlp"]
    assert np.array_equal(found["logits"], before["logits"]) == (not changes)


def test_all_layers_off_leave_the_embedding() -> None:
    model = small(n_layer=2)
    off = [Change("layer", 0), Change("layer", 1)]
    found = run(model, apply(init_weights(model, Random(1)), model, off))
    np.testing.assert_array_equal(found["layer1.after_mlp"], found["embedding"])


def test_weights_are_copied_only_where_they_change() -> None:
    model = small(n_layer=2)
    weights = init_weights(model, Random(1))
    before = {name: a.copy() for name, a in weights.items()}
    changed = apply(weights, model, [Change("head", 1, 0), Change("head", 1, 1)])
    assert [name for name in weights if changed[name] is not weights[name]] == ["layer1.attn_wo"]
    assert all(np.array_equal(weights[name], a) for name, a in before.items())
    assert apply(weights, model, []) == weights


@pytest.mark.parametrize(
    "change",
    [Change("layer", 2), Change("layer", -1), Change("head", 0, 2), Change("neuron", 1, 32), Change("mlp", 0, 1)],
)
def test_a_part_that_the_model_lacks_is_refused(change: Change) -> None:
    model = small(n_layer=2)
    with pytest.raises(UsageError, match=r"does not exist; .* 0 to "):
        apply(init_weights(model, Random(1)), model, [change])
