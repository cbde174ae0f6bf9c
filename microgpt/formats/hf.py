"""Hugging Face folders that `transformers` opens with its own classes: ArceeForCausalLM and NanoChatForCausalLM.

Arcee is this model with a gain on every norm (written as 1) and no norm after the embedding, which is folded into
the table: without learned positions that norm sees nothing but the token. NanoChat has the norms without gains,
norms queries and keys, and turns its RoPE the other way round, so that the halves of each head change places.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.config import Model
from microgpt.formats import ExportJob
from microgpt.formats.convert import EPS, normed, pair_rows, require, write_folder
from microgpt.formats.safetensors import described, kept, sealed
from microgpt.model import Tensors
from microgpt.runs import tensors
from microgpt.tokenizers import BOS
from microgpt.tokenizers.base import bos_first

ACTIVATIONS = {"relu": "relu", "relu2": "relu2", "gelu": "gelu_pytorch_tanh"}  # as transformers calls them
CODE = "modeling_microgpt.py"
HINT = "; --custom-code writes a class of ours beside the weights"


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the folder `out`: configuration, weights, fast tokenizer, and the chat template if the model has one."""
    saved = job.saved
    model, tokenizer = saved.config.model, saved.tokenizer
    contents = described(saved.config, tokenizer, job.storage, saved.step, saved.state.get("loss"))
    contents |= kept(saved) | tokenizer_files(tokenizer.to_json(), model.block_size)
    notes = []
    if job.custom_code:
        about = files.parse_json(contents["config.json"], "config.json")
        classes = {"AutoConfig": "MicroGPTConfig", "AutoModelForCausalLM": "MicroGPTForCausalLM"}
        about["architectures"] = ["MicroGPTForCausalLM"]
        about["auto_map"] = {auto: f"{CODE.removesuffix('.py')}.{name}" for auto, name in classes.items()}
        contents[CODE] = (resources.files("microgpt.formats") / "templates" / CODE).read_bytes()
        weights = job.weights
        notes = ["it opens with trust_remote_code=True, which runs the folder's " + CODE]
    elif model.qk_norm:
        about, weights = nanochat(model, job.weights)
    else:
        about, weights = arcee(model, job.weights)
    if not job.custom_code:  # with it the folder is one of ours, too
        contents["README.md"] = card(contents["README.md"].decode(), "chat_template.jinja" in contents).encode()
    about |= {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.bos, "dtype": job.storage}
    contents["config.json"] = files.to_json(about)
    ends = [tokenizer.bos, *(i for name, i in tokenizer.special.items() if name == "end_turn")]
    contents["generation_config.json"] = files.to_json(
        files.parse_json(contents["generation_config.json"], "")
        | {"pad_token_id": tokenizer.bos, "eos_token_id": ends if len(ends) > 1 else tokenizer.bos}
    )
    contents["model.safetensors"] = tensors.encode(weights, job.storage)
    write_folder(out, sealed(contents, saved.step) if job.custom_code else contents)
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
    """config.json and weights of an ArceeForCausalLM. Raises UsageError with what it cannot hold."""
    require("ArceeForCausalLM", (*common(model), (not model.softcap, f"softcap = {model.softcap}")), HINT)
    one = np.ones(model.n_embd)
    head = weights["wte" if model.tie_embeddings else "lm_head"]
    tied = model.tie_embeddings and not model.norm_embedding
    out: Tensors = {"model.embed_tokens.weight": normed(weights["wte"]) if model.norm_embedding else weights["wte"]}
    for i in range(model.n_layer):
        ours, theirs = f"layer{i}.", f"model.layers.{i}."
        out |= attention(model, weights, i, "half")
        out[theirs + "mlp.up_proj.weight"] = weights[ours + "mlp_fc1"]
        out[theirs + "mlp.down_proj.weight"] = weights[ours + "mlp_fc2"]
        out[theirs + "input_layernorm.weight"] = out[theirs + "post_attention_layernorm.weight"] = one
    out["model.norm.weight"] = one
    if not tied:
        out["lm_head.weight"] = head
    about = sizes(model) | {
        "model_type": "arcee",
        "architectures": ["ArceeForCausalLM"],
        "head_dim": model.head_dim,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
    }
    return about, out


def nanochat(model: Model, weights: Tensors) -> tuple[dict[str, Any], Tensors]:
    """config.json and weights of a NanoChatForCausalLM. Raises UsageError with what it cannot hold."""
    require("NanoChatForCausalLM", (*common(model), (model.norm_embedding, "norm_embedding = false")), HINT)
    out = {"model.embed_tokens.weight": weights["wte"]}
    for i in range(model.n_layer):
        out |= attention(model, weights, i, "half reversed")
        out[f"model.layers.{i}.mlp.fc1.weight"] = weights[f"layer{i}.mlp_fc1"]
        out[f"model.layers.{i}.mlp.fc2.weight"] = weights[f"layer{i}.mlp_fc2"]
    if not model.tie_embeddings:
        out["lm_head.weight"] = weights["lm_head"]
    about = sizes(model) | {
        "model_type": "nanochat",
        "architectures": ["NanoChatForCausalLM"],
        "final_logit_softcapping": model.softcap or None,
        "pad_token_id": None,
        "tie_word_embeddings": model.tie_embeddings,
    }
    return about, out


def common(model: Model) -> tuple[tuple[bool, str], ...]:
    """What both classes need."""
    return (
        (model.position == "rope", f"position = {model.position} (it has rope)"),
        (model.final_norm, "final_norm = false (it always has one)"),
    )


def attention(model: Model, weights: Tensors, i: int, pairs: str) -> Tensors:
    """The four matrices of layer i, queries and keys in the order of channels that the class rotates."""
    ours, theirs = f"layer{i}.attn_", f"model.layers.{i}.self_attn."
    return {
        theirs + "q_proj.weight": pair_rows(weights[ours + "wq"], model, pairs),
        theirs + "k_proj.weight": pair_rows(weights[ours + "wk"], model, pairs),
        theirs + "v_proj.weight": weights[ours + "wv"],
        theirs + "o_proj.weight": weights[ours + "wo"],
    }


def sizes(model: Model) -> dict[str, Any]:
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
    }


def tokenizer_files(data: bytes, block_size: int) -> dict[str, bytes]:
    """tokenizer.json that puts BOS before a text, as our commands do, and what names its special tokens."""
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
