"""A model folder without its weights: configuration, sampling defaults, tokenizer and model card.

The file names and the keys outside of "microgpt" are those of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.config import Config
from microgpt.data import chat_template
from microgpt.errors import CheckpointError, UsageError
from microgpt.model import n_params
from microgpt.runs.manifest import Entries, plain_size, read_file
from microgpt.tokenizers import MAX_BYTES, Tokenizer
from microgpt.tokenizers import read as read_tokenizer

WEIGHTS = "model.safetensors"
ADAPTERS = "adapters.safetensors"


def describe(
    config: Config, tokenizer: Tokenizer, dtype: str, step: int = 0, state: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The files that describe a model whose weights are stored as `dtype`; `state` is that of its training."""
    return {
        "config.json": files.to_json(_config_json(config, tokenizer, dtype)),
        "generation_config.json": files.to_json(_generation_config(config, tokenizer)),
        "tokenizer.json": tokenizer.to_json(),
        "README.md": _model_card(config, tokenizer, step, state or {}).encode(),
    }


def read(folder: Path, entries: Entries | None) -> tuple[Config, Tokenizer]:
    """The configuration and the tokenizer of a model folder. Raises CheckpointError with the file that is wrong."""
    where = folder / "config.json"
    described = files.parse_json(read_file(folder, where.name, entries), str(where))
    given = described.get("microgpt") if isinstance(described, dict) else None
    if not isinstance(given, dict):
        raise CheckpointError(f"{where}: not a microgpt model; see microgpt import")
    try:
        config = Config.from_dict(given)
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from None
    if config.model.vocab_size is None:
        raise CheckpointError(f"{where}: model.vocab_size is missing")
    if config.model.n_layer > plain_size(folder / WEIGHTS):
        raise CheckpointError(f"{where}: {config.model.n_layer} layers do not fit in {WEIGHTS}")
    where = folder / "tokenizer.json"
    tokenizer = read_tokenizer(read_file(folder, where.name, entries, MAX_BYTES), str(where))
    if tokenizer.vocab_size != config.model.vocab_size:
        raise CheckpointError(f"{where}: {tokenizer.vocab_size} tokens, but the model has {config.model.vocab_size}")
    return config, tokenizer


def _config_json(config: Config, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """config.json: the keys that Hugging Face tools know, and the whole configuration."""
    model = config.model
    return {
        "model_type": "microgpt",
        "architectures": ["MicroGPT"],
        "vocab_size": model.vocab,
        "hidden_size": model.n_embd,
        "intermediate_size": 4 * model.n_embd,
        "num_hidden_layers": model.n_layer,
        "num_attention_heads": model.n_head,
        "max_position_embeddings": model.block_size,
        "hidden_act": model.activation,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": _end_token(tokenizer),
        "dtype": dtype,
        "microgpt": config.to_dict(),
    }


def _end_token(tokenizer: Tokenizer) -> int:
    """The token that ends generated text: the end of a turn, or of the document."""
    return chat_template.end_turn(tokenizer) if chat_template.can_chat(tokenizer) else tokenizer.bos


def _generation_config(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: the default sampling."""
    return {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": _end_token(tokenizer),
        "do_sample": config.run.temperature > 0,
        "temperature": config.run.temperature,
        "max_length": config.model.block_size,
    }


def _model_card(config: Config, tokenizer: Tokenizer, step: int, state: Mapping[str, Any]) -> str:
    """README.md: the model, its training and its data in words; files by their names, without their folders."""
    model, tuned = config.model, config.finetune
    command = "chat" if chat_template.can_chat(tokenizer) else "generate"
    origin = f"\n- fine-tuned from: {Path(tuned.base).name}" if tuned.base else ""
    if tuned.lora_rank:
        origin += (
            f"\n- adapters of rank {tuned.lora_rank} in {ADAPTERS}: {WEIGHTS} holds W, "
            f"the model is W + {tuned.alpha / tuned.lora_rank:g} B A"
        )
    data = config.data.dataset or (config.data.path and Path(config.data.path).name) or "unknown"
    return f"""---
library_name: microgpt
pipeline_tag: text-generation
---

# {config.name}

A GPT of {n_params(model):,} parameters ({model.n_layer} layers, {model.n_embd} wide, {model.n_head} heads,
context {model.block_size}), with a {tokenizer.kind} tokenizer of {model.vocab} tokens.

- family: {model.family}
- trained: {step} of {config.run.steps} steps, seed {config.run.seed}{_held_out(step, state)}
- data: {data}{origin}

    microgpt {command} .
"""


def _held_out(step: int, state: Mapping[str, Any]) -> str:
    """The line of the card with the figures of the last evaluation, if there was one."""
    loss, bits, at = (state.get(key) for key in ("val_loss", "bits_per_byte", "evaluated"))
    if not isinstance(loss, float):
        return ""
    per_byte = f", {bits:.4f} bits per byte" if isinstance(bits, float) else ""
    return f"\n- held-out loss: {loss:.4f} nats per token{per_byte}{'' if at == step else f', at step {at}'}"
