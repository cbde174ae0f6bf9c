from __future__ import annotations

import random

import numpy as np

from microgpt.config import Model
from microgpt.model import init_weights, n_params, table


def test_weights_are_drawn_matrix_by_matrix_row_by_row() -> None:
    model, rng = Model(vocab_size=5, n_embd=4, n_head=2, n_layer=2, block_size=3), random.Random(3)
    values = init_weights(model, random.Random(3))
    order = ["wte", "wpe", "lm_head"]
    for i in range(2):
        order += [f"layer{i}.{name}" for name in ["attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2"]]
    assert list(values) == order
    for name in order:
        rows, columns = values[name].shape
        assert values[name].tolist() == [[rng.gauss(0, 0.08) for _ in range(columns)] for _ in range(rows)]


def test_residual_init_changes_only_the_output_matrices() -> None:
    draw = {
        kind: init_weights(Model(vocab_size=5, n_layer=2, residual_init=kind), random.Random(1))
        for kind in ("same", "zero", "scaled")
    }
    for name, same in draw["same"].items():
        out = name.endswith(("attn_wo", "mlp_fc2"))
        np.testing.assert_array_equal(draw["zero"][name], 0 * same if out else same)
        np.testing.assert_allclose(draw["scaled"][name], same / 2 if out else same, rtol=1e-15)


def test_n_params_of_the_names_model() -> None:
    assert n_params(Model(vocab_size=27)) == 4192
    assert [w.name for w in table(Model(vocab_size=27, position="rope", tie_embeddings=True))][:2] == [
        "wte",
        "layer0.attn_wq",
    ]
