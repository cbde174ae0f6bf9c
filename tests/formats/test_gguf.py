from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.errors import UsageError
from microgpt.formats import export
from microgpt.formats.quality import table
from microgpt.runs import checkpoint
from microgpt.tokenizers import train
from tests.formats.conftest import CLASSIC, MODERN, Build, logits

gguf = pytest.importorskip("gguf")

TEXTS = ["the cat sat on the mat. it's 12345 degrees — née Zoë", "  two  spaces\nand lines 🙂"] * 3


def open_there(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors as the `gguf` package reads them."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return fields, tensors


def compute(fields: dict[str, Any], w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """llama.cpp's architecture arcee, as its sources have it, in NumPy: RoPE turns neighbouring channels."""
    heads, eps = fields["arcee.attention.head_count"], fields["arcee.attention.layer_norm_rms_epsilon"]
    size, T = fields["arcee.rope.dimension_count"], len(tokens)
    angle = np.arange(T)[:, None] * fields["arcee.rope.freq_base"] ** (-2 * np.arange(size // 2) / size)
    cos, sin = np.cos(angle), np.sin(angle)

    def norm(x: np.ndarray, gain: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[gain]

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(T, heads, size).swapaxes(0, 1)

    def rotate(x: np.ndarray) -> np.ndarray:
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)

    x = w["token_embd.weight"].astype(np.float64)[tokens]
    for i in range(fields["arcee.block_count"]):
        n = norm(x, f"blk.{i}.attn_norm.weight")
        q, k, v = (split(n @ w[f"blk.{i}.attn_{part}.weight"].T) for part in "qkv")
        scores = rotate(q) @ rotate(k).swapaxes(1, 2) / np.sqrt(size) + np.triu(np.full((T, T), -np.inf), 1)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mix = (p / p.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(T, -1)
        x = x + mix @ w[f"blk.{i}.attn_output.weight"].T
        h = np.maximum(norm(x, f"blk.{i}.ffn_norm.weight") @ w[f"blk.{i}.ffn_up.weight"].T, 0) ** 2
        x = x + h @ w[f"blk.{i}.ffn_down.weight"].T
    return norm(x, "output_norm.weight") @ w.get("output.weight", w["token_embd.weight"]).T


@pytest.mark.parametrize(
    "options",
    [
        MODERN,
        {**MODERN, "rope_pairs": "interleaved", "rope_base": 300.0},
        {**MODERN, "tie_embeddings": True},
        {**MODERN, "tie_embeddings": True, "norm_embedding": False},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_its_tensors_compute_our_logits(build: Build, tmp_path: Path, options: dict[str, Any]) -> None:
    source = build(**options, init_std=0.2)
    fields, tensors = open_there(export(source, "gguf", tmp_path / "model.gguf").path)
    tokens = [26, *range(20)]
    assert np.abs(compute(fields, tensors, tokens) - logits(source, tokens)).max() < 1e-5
    assert fields["general.architecture"] == "arcee"
    assert fields["arcee.context_length"] == 24
    assert fields["arcee.feed_forward_length"] == 64
    assert ("output.weight" in tensors) == (not options.get("tie_embeddings") or options.get("norm_embedding", True))


@pytest.mark.parametrize(("stored", "bound"), [("float16", 5e-3), ("bfloat16", 5e-2), ("int8", 0.1)])
def test_fewer_bits(build: Build, tmp_path: Path, stored: str, bound: float) -> None:
    source = build(**MODERN, init_std=0.1, n_embd=64)
    path = export(source, "gguf", tmp_path / "model.gguf", storage=stored).path
    fields, tensors = open_there(path)
    difference = np.abs(compute(fields, tensors, [26, 1, 2]) - logits(source, [26, 1, 2])).max()
    assert 0 < difference < bound
    whole = export(source, "gguf", tmp_path / "whole.gguf").bytes
    assert path.stat().st_size < (0.55 if stored != "int8" else 0.3) * whole + 2000


def tokenizer_of(fields: dict[str, Any]) -> Any:
    """The file's BPE in the `tokenizers` library, which cuts text as llama.cpp's `gpt-2` does."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    for left, right in merges:  # llama.cpp knows a merge without its result being a token
        vocab.setdefault(left, len(vocab))
        vocab.setdefault(right, len(vocab))
        vocab.setdefault(left + right, len(vocab))
    out = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    out.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return out


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_its_tokenizer_gives_our_tokens(build: Build, tmp_path: Path, kind: str) -> None:
    tokenizer = train(kind, TEXTS, roles=True)
    source = build(tokenizer=tokenizer, **MODERN)
    fields, _ = open_there(export(source, "gguf", tmp_path / "model.gguf").path)
    theirs = tokenizer_of(fields)
    for text in (*TEXTS[:2], "Zoë 🙂— née", "t h e  " if kind == "char" else "日本 unseen\t'll"):
        assert theirs.encode(text).ids == tokenizer.encode(text).tolist()
    control = [i for i, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
    assert control == sorted(tokenizer.special.values())
    assert fields["tokenizer.ggml.bos_token_id"] == tokenizer.bos
    assert fields["tokenizer.ggml.eot_token_id"] == tokenizer.special["end_turn"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CLASSIC, r"position = learned .*, activation = relu .*, final_norm = false"),
        ({"family": "nanochat", "softcap": 15.0}, r"qk_norm = true, softcap = 15\.0"),
    ],
    ids=["classic", "nanochat"],
)
def test_what_llama_cpp_cannot_hold_is_refused(
    build: Build, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(build(**options), "gguf", tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_tokenizers_it_cannot_express_are_refused(build: Build, tmp_path: Path) -> None:
    for kind, reason in (("word", "tokens are words"), ("bpe-vidya", "does not work on bytes")):
        with pytest.raises(UsageError, match=reason):
            export(build(kind, tokenizer=train(kind, TEXTS), **MODERN), "gguf", tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="n_embd divisible by 32, got 16"):
        export(build("small", **MODERN), "gguf", tmp_path / "model.gguf", storage="int8")


def test_the_quality_table_knows_its_blocks(build: Build, tmp_path: Path) -> None:
    saved = checkpoint.read(build(**MODERN, n_embd=32))
    text = tmp_path / "text.txt"
    text.write_text("abc\ndef\n")
    ours, _ = table(saved, ["int8"], str(text))
    theirs, about = table(saved, ["int8"], str(text), "gguf")
    assert ours[0] == theirs[0]
    assert ours[1]["loss"] != theirs[1]["loss"]
    assert about == f"2 documents of {text}"
