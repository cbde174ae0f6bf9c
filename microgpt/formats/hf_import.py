"""Hugging Face folders of Arcee and NanoChat into our weights: the export's way back.

Arcee's norms have gains; a gain stands before a matrix product, so each is multiplied into the next matrix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.config import Config
from microgpt.errors import CheckpointError
from microgpt.formats.convert import EPS
from microgpt.formats.foreign import read_tokenizer
from microgpt.formats.imports import Foreign, configure, file_size, in_order, read_safetensors, sizes
from microgpt.model import Tensors

NAMES = {
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "block_size": "max_position_embeddings",
}
ACTIVATIONS = {"relu": "relu", "relu2": "relu2", "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu"}


def read_hf(path: Path) -> Foreign:
    """A plain folder: config.json, model.safetensors, tokenizer.json. Raises CheckpointError."""
    file = path / "config.json"
    given, where = files.read_json(file), str(file)
    family = given.get("model_type") if isinstance(given, dict) else None
    if family == "microgpt":
        raise CheckpointError(f"{where}: a model of ours already; every command opens it as it is")
    if family not in ("arcee", "nanochat"):
        raise CheckpointError(f"{where}: model_type {family!r}; this version imports arcee and nanochat")
    weights_file = path / "model.safetensors"
    if not weights_file.is_file():
        raise CheckpointError(f"{weights_file}: no such file; one safetensors file is read, no shards and no pickle")
    model = architecture(given, where, family)
    _same(given, where, model)
    config = configure(path.resolve().name, model, file_size(weights_file), where)
    tied = bool(given.get("tie_word_embeddings", False))
    tokenizer, order = read_tokenizer(path, config.model.vocab, given.get("bos_token_id"))
    read = arcee if family == "arcee" else nanochat
    weights = read(weights_file, config, tied)
    source = f"a Hugging Face folder ({'ArceeForCausalLM' if family == 'arcee' else 'NanoChatForCausalLM'})"
    if family == "arcee":
        config = config.replace(model={"tie_embeddings": "lm_head" not in weights})
    return Foreign(source, config, tokenizer, in_order(weights, order), {}, 0, [])


def architecture(given: dict[str, Any], where: str, family: str) -> dict[str, Any]:
    """Our [model] section from a config.json. Raises CheckpointError."""
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"{where}: rope_parameters {rope!r}; this version reads plain RoPE")
    activation = given.get("hidden_act", "relu2")
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"{where}: hidden_act {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
    softcap = given.get("final_logit_softcapping", 15.0) if family == "nanochat" else None
    return {
        **sizes(given, where, NAMES),
        "family": "nanochat" if family == "nanochat" else "modern",
        "activation": ACTIVATIONS[activation],
        "rope_base": rope.get("rope_theta", given.get("rope_theta", 10000.0)),
        "norm_embedding": family == "nanochat",
        "tie_embeddings": family == "nanochat" and bool(given.get("tie_word_embeddings", False)),
        "softcap": softcap or 0.0,
    }


def _same(given: dict[str, Any], where: str, model: dict[str, Any]) -> None:
    """Refuse what our model fixes otherwise."""
    heads, width = model["n_head"], model["n_embd"]
    default_eps = 1e-6 if given["model_type"] == "nanochat" else 1e-5
    for key, value, ours in (
        ("num_key_value_heads", given.get("num_key_value_heads") or heads, heads),
        ("head_dim", given.get("head_dim") or width // heads, width // heads),
        ("intermediate_size", given.get("intermediate_size"), 4 * width),
        ("rms_norm_eps", given.get("rms_norm_eps", default_eps), EPS),
        ("attention_bias", bool(given.get("attention_bias", False)), False),
        ("mlp_bias", bool(given.get("mlp_bias", False)), False),
    ):
        if value != ours:
            raise CheckpointError(f"{where}: {key} is {value!r}; a model of ours has {ours!r} there")


def layer_shapes(config: Config, up: str, down: str) -> dict[str, tuple[int, ...]]:
    """The matrices of all layers by their names there."""
    D = config.model.n_embd
    parts = {f"self_attn.{x}_proj.weight": (D, D) for x in "qkvo"}
    parts |= {f"mlp.{up}.weight": (4 * D, D), f"mlp.{down}.weight": (D, 4 * D)}
    return {f"model.layers.{i}.{name}": shape for i in range(config.model.n_layer) for name, shape in parts.items()}


def arcee(file: Path, config: Config, tied: bool) -> Tensors:
    """Our weights; the head is one of its own unless it is the table and the last gain is 1 everywhere."""
    model = config.model
    D, V = model.n_embd, model.vocab
    shapes = layer_shapes(config, "up_proj", "down_proj")
    gains = [
        f"model.layers.{i}.{n}_layernorm.weight" for i in range(model.n_layer) for n in ("input", "post_attention")
    ]
    shapes |= dict.fromkeys([*gains, "model.norm.weight"], (D,))
    shapes |= {"model.embed_tokens.weight": (V, D)} | ({} if tied else {"lm_head.weight": (V, D)})
    given = read_safetensors(file, shapes)
    last = given["model.norm.weight"]
    out = {"wte": given["model.embed_tokens.weight"]}
    if not (tied and (last == 1).all()):
        out["lm_head"] = given["model.embed_tokens.weight" if tied else "lm_head.weight"] * last
    for i in range(model.n_layer):
        theirs = f"model.layers.{i}."
        first, second = given[theirs + "input_layernorm.weight"], given[theirs + "post_attention_layernorm.weight"]
        for x in "qkv":
            out[f"layer{i}.attn_w{x}"] = given[theirs + f"self_attn.{x}_proj.weight"] * first
        out[f"layer{i}.attn_wo"] = given[theirs + "self_attn.o_proj.weight"]
        out[f"layer{i}.mlp_fc1"] = given[theirs + "mlp.up_proj.weight"] * second
        out[f"layer{i}.mlp_fc2"] = given[theirs + "mlp.down_proj.weight"]
    return out


def nanochat(file: Path, config: Config, tied: bool) -> Tensors:
    """Our weights: the halves of each head of queries and keys change places."""
    model = config.model
    shapes = layer_shapes(config, "fc1", "fc2")
    names = ["model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])]
    given = read_safetensors(file, shapes | dict.fromkeys(names, (model.vocab, model.n_embd)))
    out = {"wte": given["model.embed_tokens.weight"]}
    if not tied:
        out["lm_head"] = given["lm_head.weight"]
    for i in range(model.n_layer):
        theirs = f"model.layers.{i}."
        for x in "qk":
            heads = given[theirs + f"self_attn.{x}_proj.weight"].reshape(model.n_head, model.head_dim, -1)
            swapped = np.roll(heads, model.head_dim // 2, axis=1).reshape(model.n_embd, -1)
            out[f"layer{i}.attn_w{x}"] = np.ascontiguousarray(swapped)
        out[f"layer{i}.attn_wv"] = given[theirs + "self_attn.v_proj.weight"]
        out[f"layer{i}.attn_wo"] = given[theirs + "self_attn.o_proj.weight"]
        out[f"layer{i}.mlp_fc1"] = given[theirs + "mlp.fc1.weight"]
        out[f"layer{i}.mlp_fc2"] = given[theirs + "mlp.fc2.weight"]
    return out
