from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.formats import export
from tests.formats.conftest import CLASSIC, MODERN, NANOCHAT, Build, logits

ort = pytest.importorskip("onnxruntime")


def run(path: Path, chunks: list[list[int]]) -> tuple[np.ndarray, Any]:
    """Logits of all chunks, the cache handed on from one to the next."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    caches = session.get_inputs()[1:]
    past = {c.name: np.zeros((1, c.shape[1], 0, c.shape[3]), np.float32) for c in caches}
    out = []
    for chunk in chunks:
        found, *present = session.run(None, {"input_ids": np.array([chunk], np.int64), **past})
        out.append(found[0])
        past = dict(zip(past, present, strict=True))
    return np.concatenate(out), session


@pytest.mark.parametrize(
    "options",
    [
        CLASSIC,
        {**CLASSIC, "activation": "gelu", "norm_embedding": False, "tie_embeddings": True},
        MODERN,
        {**MODERN, "rope_pairs": "interleaved", "rope_base": 500.0, "softcap": 5.0},
        {**NANOCHAT, "softcap": 15.0, "n_layer": 3},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_onnxruntime_computes_our_logits_with_its_cache(build: Build, tmp_path: Path, options: dict[str, Any]) -> None:
    source = build(**options, init_std=0.2)
    path = export(source, "onnx", tmp_path / "model.onnx").path
    tokens = [26, *range(23)]
    theirs, session = run(path, [tokens[:9], tokens[9:10], tokens[10:11], tokens[11:]])
    assert np.abs(theirs - logits(source, tokens)).max() < 1e-5
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["microgpt"])["model"]["vocab_size"] == 27
    assert json.loads(about["tokenizer.json"])["model"]["type"] == "WordLevel"


def test_rows_of_a_batch_do_not_meet(build: Build, tmp_path: Path) -> None:
    source = build(**MODERN)
    session = ort.InferenceSession(str(export(source, "onnx", tmp_path / "model.onnx").path))
    past = {c.name: np.zeros((2, c.shape[1], 0, c.shape[3]), np.float32) for c in session.get_inputs()[1:]}
    found = session.run(["logits"], {"input_ids": np.array([[26, 1, 2], [26, 9, 8]], np.int64), **past})[0]
    for row, tokens in zip(found, ([26, 1, 2], [26, 9, 8]), strict=True):
        assert np.abs(row - logits(source, tokens)).max() < 1e-4
