"""Hugging Face folders that `transformers` opens with its own classes: ArceeForCausalLM and NanoChatForCausalLM.

Arcee is this model with a gain on every norm (written as 1, and on import multiplied into the matrix that follows)
and no norm after the embedding, which is folded into the table: without learned positions that norm sees nothing
but the token. NanoChat has the norms without gains, norms queries and keys, and rotates in the other direction,
so the halves of each head are swapped.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.config import Model
from microgpt.errors import CheckpointError
from microgpt.formats import ExportJob
from microgpt.formats.convert import EPS, normed, pair_rows, require
from microgpt.formats.foreign import Foreign, configure, in_order, read_tokenizer, reading, sizes
from microgpt.model import Tensors, table
from microgpt.runs import tensors
from microgpt.runs.manifest import plain_size, seal
from microgpt.runs.model_folder import describe
from microgpt.tokenizers import BOS
from microgpt.tokenizers.base import bos_first

CLASSES = {"arcee": "ArceeForCausalLM", "nanochat": "NanoChatForCausalLM"}
CODE = "modeling_microgpt.py"
HINT = "; --custom-code writes a class of microgpt beside the weights, and --family modern of microgpt train needs none"

# The names that transformers gives to sizes, activations and matrices.
SIZES = {
    "vocab_size": "vocab_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "block_size": "max_position_embeddings",
}
ACTIVATIONS = {"relu": "relu", "relu2": "relu2", "gelu": "gelu_pytorch_tanh"}
ATTENTION = {f"attn_w{x}": f"self_attn.{x}_proj" for x in "qkvo"}
MLP = {
    "arcee": {"mlp_fc1": "mlp.up_proj", "mlp_fc2": "mlp.down_proj"},
    "nanochat": {"mlp_fc1": "mlp.fc1", "mlp_fc2": "mlp.fc2"},
}
TABLE, HEAD, LAST_GAIN = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
GAINS = {
    "input_layernorm": ("attn_wq", "attn_wk", "attn_wv"),  # the matrices that follow it
    "post_attention_layernorm": ("mlp_fc1",),
}


def layer_names(model: Model, family: str) -> dict[str, str]:
    """The matrices of all layers: our names to those of transformers."""
    parts = ATTENTION | MLP[family]
    return {f"layer{i}.{a}": f"model.layers.{i}.{b}.weight" for i in range(model.n_layer) for a, b in parts.items()}


def gain_names(model: Model) -> dict[str, list[str]]:
    """The gains of Arcee's layers, and our matrices that follow each."""
    return {
        f"model.layers.{i}.{gain}.weight": [f"layer{i}.{part}" for part in parts]
        for i in range(model.n_layer)
        for gain, parts in GAINS.items()
    }


def paired(weights: Tensors, model: Model, family: str) -> Tensors:
    """The weights with wq and wk in the order of channels that the class rotates, or back: it is its own inverse."""
    pairs = "half reversed" if family == "nanochat" else "half"
    rotated = (".attn_wq", ".attn_wk")
    return {name: pair_rows(w, model, pairs) if name.endswith(rotated) else w for name, w in weights.items()}


# Export


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the folder `out`: configuration, weights, fast tokenizer, and the chat template if the model has one."""
    saved = job.saved
    model, tokenizer = saved.config.model, saved.tokenizer
    contents = describe(saved.config, tokenizer, job.storage, saved.step, saved.state)
    contents |= saved.copied | tokenizer_files(tokenizer.to_json(), model.block_size)
    notes = []
    if job.custom_code:
        about = files.parse_json(contents["config.json"], "config.json")
        classes = {"AutoConfig": "MicroGPTConfig", "AutoModelForCausalLM": "MicroGPTForCausalLM"}
        about["architectures"] = ["MicroGPTForCausalLM"]
        about["auto_map"] = {auto: f"{CODE.removesuffix('.py')}.{name}" for auto, name in classes.items()}
        contents[CODE] = (resources.files("microgpt.formats") / "templates" / CODE).read_bytes()
        weights = job.weights
        notes = ["it opens with trust_remote_code=True, which runs the folder's " + CODE]
    else:
        about, weights = (nanochat if model.qk_norm else arcee)(model, job.weights)
        about |= reading(saved.config)
        # With custom code every command of microgpt opens the folder, and its card says so.
        contents["README.md"] = card(contents["README.md"].decode(), "chat_template.jinja" in contents).encode()
    about |= {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.bos, "dtype": job.storage}
    contents["config.json"] = files.to_json(about)
    ends = [tokenizer.bos, *(i for name, i in tokenizer.special.items() if name == "end_turn")]
    contents["generation_config.json"] = files.to_json(
        files.parse_json(contents["generation_config.json"], "")
        | {"pad_token_id": tokenizer.bos, "eos_token_id": ends if len(ends) > 1 else tokenizer.bos}
    )
    contents["model.safetensors"] = tensors.encode(weights, job.storage)
    files.write_folder(out, seal(contents, saved.step) if job.custom_code else contents)
    return notes


def card(ours: str, chats: bool) -> str:
    """README.md of a folder that only transformers opens: another library, and another command at the end."""
    about = ours.replace("library_name: microgpt", "library_name: transformers", 1).rpartition("\n\n")[0]
    given = '[{"role": "user", "content": "Hello"}]' if chats else '""'
    return f"""{about}

```python
from transformers import pipeline

print(pipeline("text-generation", ".")({given}))
```

`microgpt import . --out FOLDER` makes it a model of microgpt again.
"""


def arcee(model: Model, weights: Tensors) -> tuple[dict[str, Any], Tensors]:
    """config.json and weights of an ArceeForCausalLM. Raises UsageError with the options that it cannot hold."""
    require(CLASSES["arcee"], (*common_needs(model), (not model.softcap, f"softcap = {model.softcap}")), HINT)
    tied = model.tie_embeddings and not model.norm_embedding
    out = layers(model, weights, "arcee") | dict.fromkeys([*gain_names(model), LAST_GAIN], np.ones(model.n_embd))
    out[TABLE] = normed(weights["wte"]) if model.norm_embedding else weights["wte"]
    if not tied:
        out[HEAD] = weights["wte" if model.tie_embeddings else "lm_head"]
    about = {"head_dim": model.head_dim, "mlp_bias": False, "tie_word_embeddings": tied}
    return described_sizes(model, "arcee") | about, out


def nanochat(model: Model, weights: Tensors) -> tuple[dict[str, Any], Tensors]:
    """config.json and weights of a NanoChatForCausalLM. Raises UsageError with the options that it cannot hold."""
    require(CLASSES["nanochat"], (*common_needs(model), (model.norm_embedding, "norm_embedding = false")), HINT)
    out = layers(model, weights, "nanochat") | {TABLE: weights["wte"]}
    if not model.tie_embeddings:
        out[HEAD] = weights["lm_head"]
    about = described_sizes(model, "nanochat") | {
        "final_logit_softcapping": model.softcap or None,
        "pad_token_id": None,
        "tie_word_embeddings": model.tie_embeddings,
    }
    return about, out


def common_needs(model: Model) -> tuple[tuple[bool, str], ...]:
    """The options that both classes fix."""
    return (
        (model.position == "rope", f"position = {model.position} (it has rope)"),
        (model.final_norm, "final_norm = false (it always has one)"),
    )


def layers(model: Model, weights: Tensors, family: str) -> Tensors:
    """The matrices of all layers as the class names and pairs them."""
    ours = paired(weights, model, family)
    return {theirs: ours[name] for name, theirs in layer_names(model, family).items()}


def described_sizes(model: Model, family: str) -> dict[str, Any]:
    """The keys of config.json that both classes know."""
    return {
        "vocab_size": model.vocab,
        "hidden_size": model.n_embd,
        "intermediate_size": 4 * model.n_embd,
        "num_hidden_layers": model.n_layer,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_head,
        "max_position_embeddings": model.block_size,
        "hidden_act": ACTIVATIONS[model.activation],
        "rms_norm_eps": EPS,
        "rope_theta": model.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "model_type": family,
        "architectures": [CLASSES[family]],
    }


def tokenizer_files(data: bytes, block_size: int) -> dict[str, bytes]:
    """tokenizer.json that puts BOS before a text, as our commands do, and the names of its special tokens."""
    content = files.parse_json(data, "tokenizer.json")
    bos = next(token["id"] for token in content["added_tokens"] if token["content"] == BOS)
    content["post_processor"] = bos_first(bos)
    special = {"bos_token": BOS, "eos_token": BOS, "pad_token": BOS}
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        **special,
    }
    return {
        "tokenizer.json": files.to_json(content),
        "tokenizer_config.json": files.to_json(about),
        "special_tokens_map.json": files.to_json(special),
    }


# Import


def read(path: Path) -> Foreign:
    """A plain folder: config.json, model.safetensors, tokenizer.json. Raises CheckpointError."""
    file = path / "config.json"
    given, where = files.read_json(file), str(file)
    family = given.get("model_type") if isinstance(given, dict) else None
    if family == "microgpt":
        raise CheckpointError(f"{where}: a model of microgpt already; every command opens it as it is")
    if family not in (*CLASSES,):
        raise CheckpointError(f"{where}: model_type {family!r}; this version imports arcee and nanochat")
    weights_file = path / "model.safetensors"
    if not weights_file.is_file():
        raise CheckpointError(f"{weights_file}: no such file; one safetensors file is read, no shards and no pickle")
    section = architecture(given, where, family)
    check_fixed(given, where, section)
    config = configure(path.resolve().name, section, plain_size(weights_file), where, given)
    tokenizer, order = read_tokenizer(path, config.model.vocab, given.get("bos_token_id"))
    weights = read_weights(weights_file, config.model, family, bool(given.get("tie_word_embeddings", False)))
    if family == "arcee":
        config = config.replace(model={"tie_embeddings": "lm_head" not in weights})
    source = f"a Hugging Face folder ({CLASSES[family]})"
    return Foreign(source, config, tokenizer, in_order(weights, order), {}, 0, [])


def architecture(given: dict[str, Any], where: str, family: str) -> dict[str, Any]:
    """Our [model] section from a config.json. Raises CheckpointError."""
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise CheckpointError(f"{where}: rope_parameters {rope!r}; this version reads plain RoPE")
    known = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_new": "gelu"}
    activation = given.get("hidden_act", "relu2")
    if not isinstance(activation, str) or activation not in known:
        raise CheckpointError(f"{where}: hidden_act {activation!r}; expected one of {', '.join(known)}")
    softcap = given.get("final_logit_softcapping", 15.0) if family == "nanochat" else None
    return {
        **sizes(given, where, SIZES),
        "family": "nanochat" if family == "nanochat" else "modern",
        "activation": known[activation],
        "rope_base": rope.get("rope_theta", given.get("rope_theta", 10000.0)),
        "norm_embedding": family == "nanochat",
        "tie_embeddings": family == "nanochat" and bool(given.get("tie_word_embeddings", False)),
        "softcap": softcap or 0.0,
    }


def check_fixed(given: dict[str, Any], where: str, section: dict[str, Any]) -> None:
    """Raise CheckpointError for an option whose value no model of microgpt has."""
    heads, width = section["n_head"], section["n_embd"]
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
            raise CheckpointError(f"{where}: {key} is {value!r}; a model of microgpt has {ours!r} there")


def read_weights(file: Path, model: Model, family: str, tied: bool) -> Tensors:
    """Our weights, with lm_head unless the head is the table. Raises CheckpointError.

    Arcee's last gain belongs to the head alone, so a tied head with a gain that is not 1 becomes an untied one.
    """
    ours, names, gains = {w.name: w.shape for w in table(model)}, layer_names(model, family), gain_names(model)
    shapes: dict[str, tuple[int, ...]] = {theirs: ours[name] for name, theirs in names.items()}
    shapes |= dict.fromkeys([TABLE] if tied else [TABLE, HEAD], (model.vocab, model.n_embd))
    if family == "arcee":
        shapes |= dict.fromkeys([*gains, LAST_GAIN], (model.n_embd,))
    given = tensors.read_tensors(file.parent, file.name, None, shapes)
    out = {"wte": given[TABLE]} | paired({name: given[theirs] for name, theirs in names.items()}, model, family)
    if family == "nanochat":
        return out if tied else out | {"lm_head": given[HEAD]}
    if not (tied and (given[LAST_GAIN] == 1).all()):
        out["lm_head"] = given[TABLE if tied else HEAD] * given[LAST_GAIN]
    for gain, following in gains.items():
        out |= {name: out[name] * given[gain] for name in following}
    return out
