from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.errors import UsageError
from microgpt.formats import export
from microgpt.formats.imports import import_model
from microgpt.tokenizers.char import Char
from tests.formats.conftest import CLASSIC, KGX, MODERN, Build, logits


def read_and_compute(path: Path, text: str) -> list[list[float]]:
    """kgx's model as its documents describe it, in plain Python: BOS last, ReLU squared, no final norm."""
    file: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    weights, heads, size = file["state_dict"], file["n_head"], file["n_embd"] // file["n_head"]
    tokens = [file["vocab_size"] - 1, *(file["uchars"].index(char) for char in text)]

    def linear(w: list[list[float]], x: list[float]) -> list[float]:
        return [sum(a * b for a, b in zip(row, x, strict=True)) for row in w]

    def norm(x: list[float]) -> list[float]:
        return [a / math.sqrt(sum(b * b for b in x) / len(x) + 1e-5) for a in x]

    out = []
    caches: list[tuple[list[Any], list[Any]]] = [([], []) for _ in range(file["n_layer"])]
    for position, token in enumerate(tokens):
        x = norm([a + b for a, b in zip(weights["wte"][token], weights["wpe"][position], strict=True)])
        for i, (keys, values) in enumerate(caches):
            w = {name: weights[f"layer{i}.{name}"] for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo")}
            n = norm(x)
            q = linear(w["attn_wq"], n)
            keys.append(linear(w["attn_wk"], n))
            values.append(linear(w["attn_wv"], n))
            mix = []
            for h in range(heads):
                at = slice(h * size, (h + 1) * size)
                scores = [math.exp(sum(a * b for a, b in zip(q[at], k[at], strict=True)) / size**0.5) for k in keys]
                for c in range(h * size, (h + 1) * size):
                    mix.append(sum(s * v[c] for s, v in zip(scores, values, strict=True)) / sum(scores))
            x = [a + b for a, b in zip(x, linear(w["attn_wo"], mix), strict=True)]
            hidden = [max(a, 0.0) ** 2 for a in linear(weights[f"layer{i}.mlp_fc1"], norm(x))]
            x = [a + b for a, b in zip(x, linear(weights[f"layer{i}.mlp_fc2"], hidden), strict=True)]
        out.append(linear(weights["lm_head"], x))
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_its_description_computes_our_logits(build: Build, tmp_path: Path, dtype: str) -> None:
    source = build(**KGX, dtype=dtype, n_head=4)
    done = export(source, "kgx", tmp_path / "model.json")
    assert done.notes == []
    np.testing.assert_allclose(read_and_compute(done.path, "hello"), logits(source, [26, 7, 4, 11, 11, 14]), atol=1e-9)


@pytest.mark.parametrize("name", ["model.json", "names-json"])
def test_there_and_back(build: Build, tmp_path: Path, name: str) -> None:
    source = build(**KGX, tokenizer=Char(' "\\abé日🙂'))
    export(source, "kgx", tmp_path / name)
    done = import_model(tmp_path / name, tmp_path / "back")
    np.testing.assert_array_equal(logits(done.path, [8, 6, 7]), logits(source, [8, 6, 7]))


def test_another_activation_is_told_and_comes_back(build: Build, tmp_path: Path) -> None:
    source = build(**CLASSIC)
    done = export(source, "kgx", tmp_path / "model.json")
    assert "activation is relu" in done.notes[0]
    back = import_model(done.path, tmp_path / "back")
    np.testing.assert_array_equal(logits(back.path, [26, 1]), logits(source, [26, 1]))


def test_another_architecture_is_refused_by_name(build: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"position = rope .*, final_norm = true, softcap = 3\.0"):
        export(build(**MODERN, softcap=3.0), "kgx", tmp_path / "model.json")
    with pytest.raises(UsageError, match="special tokens beside BOS"):
        export(build("chat", tokenizer=Char("ab", ("user", "bos"))), "kgx", tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()
