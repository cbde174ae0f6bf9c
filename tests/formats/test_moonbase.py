from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import gpt
from microgpt.errors import UsageError
from microgpt.formats import export
from microgpt.formats.imports import import_model
from microgpt.tokenizers.char import Char
from tests.formats.conftest import LETTERS, MODERN, Build, logits

GIST = {"n_layer": 1, "n_embd": 16, "n_head": 4, "block_size": 16}


def test_the_gist_computes_our_logits_from_it(build: Build, tmp_path: Path) -> None:
    source = build(**GIST)
    folder = export(source, "moonbase", tmp_path / "out").path
    meta = json.loads((folder / "meta.json").read_text())
    assert meta == {"vocab_size": 27, "n_embd": 16, "n_head": 4, "n_layer": 1, "block_size": 16, "chars": [*LETTERS]}
    tensors = load_file(folder / "weights.safetensors")
    assert {values.dtype for values in tensors.values()} == {np.dtype(np.float32)}
    weights = {name: [[gpt.Value(float(x)) for x in row] for row in rows] for name, rows in tensors.items()}
    cache: gpt.Cache = [([], [])]
    tokens = [26, *(meta["chars"].index(char) for char in "emma")]
    theirs = [[v.data for v in gpt.gpt(weights, t, i, cache)] for i, t in enumerate(tokens)]
    np.testing.assert_allclose(theirs, logits(source, tokens), atol=1e-9)


@pytest.mark.parametrize(("stored", "bound"), [("float32", 0), ("float16", 0.05)])
def test_there_and_back(build: Build, tmp_path: Path, stored: str, bound: float) -> None:
    source = build()
    export(source, "moonbase", tmp_path / "out", storage=stored)
    done = import_model(tmp_path / "out", tmp_path / "back")
    assert np.abs(logits(done.path, [26, 3, 4]) - logits(source, [26, 3, 4])).max() <= bound


def test_a_chat_model_keeps_the_roles_that_muchq_knows(build: Build, tmp_path: Path) -> None:
    source = build(tokenizer=Char("abc", ("user", "assistant", "system", "end_turn", "bos")))
    done = export(source, "moonbase", tmp_path / "out")
    assert done.notes == ["its token <system> is left out: muchq's program has none"]
    meta = json.loads((done.path / "meta.json").read_text())
    assert (meta["vocab_size"], meta["special_tokens"]) == (7, ["user", "assistant", "end_turn"])
    back = import_model(done.path, tmp_path / "back").path
    ours = logits(source, [7, 3, 0, 6, 4])[:, [0, 1, 2, 3, 4, 6, 7]]
    np.testing.assert_allclose(logits(back, [6, 3, 0, 5, 4]), ours, atol=1e-12)


def test_another_architecture_is_refused_by_name(build: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"muchq's folder cannot hold this model: position = rope .* tie_embeddings"):
        export(build(**MODERN, tie_embeddings=True), "moonbase", tmp_path / "out")
    assert not (tmp_path / "out").exists()
