"""The contract's `inspect`: the activations shown are those that the engines compute with."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.engines import Activations
from microgpt.engines.ladder import LADDER, inspecting
from microgpt.model import init_weights
from tests.engines.ladder import CASES, build, small

OPTIONS = ["classic", "modern", "nanochat", "relu2", "gelu", "raw embedding", "tied", "softcap", "everything"]
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_case = pytest.mark.parametrize("case", OPTIONS)


def case_of(case: str) -> tuple[Model, np.ndarray]:
    model = small(**CASES[case].model)
    return model, np.array([Random(5).randrange(model.vocab) for _ in range(model.block_size)])


def inspected(model: Model, tokens: np.ndarray, dtype: str) -> Activations:
    engine = inspecting(model, Optim(), dtype)
    assert engine.inspect
    return engine.inspect(engine.load(init_weights(model, Random(1))), tokens)


@every_dtype
@every_case
def test_logits_are_those_of_the_engine_bit_for_bit(case: str, dtype: str) -> None:
    model, tokens = case_of(case)
    engine = inspecting(model, Optim(), dtype)
    expected, _ = engine.logits(engine.load(init_weights(model, Random(1))), tokens)
    np.testing.assert_array_equal(inspected(model, tokens, dtype)["logits"], expected)


@pytest.mark.parametrize(("rung", "dtype"), [(r, d) for r in ("scalar", "fused") for d in LADDER[r].dtypes])
@every_case
def test_logits_are_those_of_the_ladder(rung: str, dtype: str, case: str) -> None:
    model, tokens = case_of(case)
    engine = build(rung, model, dtype=dtype)
    logits, _ = engine.logits(engine.load(init_weights(model, Random(1))), tokens)
    shown = inspected(model, tokens, "float64" if dtype == "float64" else "float32")["logits"]
    atol = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 0.1}[dtype]
    np.testing.assert_allclose(shown, logits, rtol=0, atol=atol)


@every_dtype
@every_case
def test_activations_explain_each_other(case: str, dtype: str) -> None:
    """Each is what the formulas of docs/model.md make of the ones before it."""
    model, tokens = case_of(case)
    w = init_weights(model, Random(1))
    found = inspected(model, tokens, dtype)
    T, H = len(tokens), model.n_head
    near = {"rtol": 0, "atol": 1e-12 if dtype == "float64" else 2e-5}

    def normed(x: np.ndarray) -> np.ndarray:
        return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5))

    x = w["wte"][tokens] + (w["wpe"][:T] if model.position == "learned" else 0)
    np.testing.assert_allclose(found["embedding"], normed(x) if model.norm_embedding else x, **near)
    x = found["embedding"]
    for i in range(model.n_layer):
        layer = {name: found[f"layer{i}.{name}"] for name in ("q", "k", "v", "attention", "mix", "mlp")}
        scores = layer["q"] @ layer["k"].transpose(0, 2, 1) / np.sqrt(model.head_dim)
        p = np.exp(scores) * np.tri(T)
        np.testing.assert_allclose(layer["attention"], p / p.sum(-1, keepdims=True), **near)
        np.testing.assert_allclose(layer["attention"].sum(-1), np.ones((H, T)), **near)
        v = (normed(x) @ w[f"layer{i}.attn_wv"].T).reshape(T, H, -1).transpose(1, 0, 2)
        np.testing.assert_allclose(layer["v"], v, **near)
        np.testing.assert_allclose(layer["mix"], layer["attention"] @ layer["v"], **near)
        x = x + layer["mix"].transpose(1, 0, 2).reshape(T, -1) @ w[f"layer{i}.attn_wo"].T
        np.testing.assert_allclose(found[f"layer{i}.after_attention"], x, **near)
        x = found[f"layer{i}.after_attention"] + layer["mlp"] @ w[f"layer{i}.mlp_fc2"].T
        np.testing.assert_allclose(found[f"layer{i}.after_mlp"], x, **near)
        x = found[f"layer{i}.after_mlp"]
    np.testing.assert_allclose(found["final"], normed(x) if model.final_norm else x, **near)


def test_what_is_shown_has_the_shapes_that_the_contract_names() -> None:
    model, tokens = case_of("classic")
    T, D, H = len(tokens), model.n_embd, model.n_head
    stream, head = (T, D), (H, T, D // H)
    layer = {"q": head, "k": head, "v": head, "mix": head, "attention": (H, T, T)}
    layer |= {"after_attention": stream, "mlp": (T, 4 * D), "after_mlp": stream}
    expected = {f"layer{i}.{name}": shape for i in range(model.n_layer) for name, shape in layer.items()}
    expected |= {"embedding": stream, "final": stream, "logits": (T, model.vocab)}
    assert {name: a.shape for name, a in inspected(model, tokens, "float32").items()} == expected
