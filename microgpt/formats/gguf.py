"""One GGUF file for llama.cpp, as its architecture `arcee`, with the tokenizer inside.

llama.cpp rotates neighbouring channels, squares its ReLU, has a norm before the head and none after the embedding
(ours is folded into the table), and tokenizes bytes within the pieces of GPT-2's pattern.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.formats import ExportJob
from microgpt.formats.byte_level import as_byte_level
from microgpt.formats.convert import EPS, normed, pair_rows, require
from microgpt.model import Tensors
from microgpt.runs import tensors

HINT = "; microgpt train with --family modern makes one that it holds"
Q8_BLOCK = 32  # numbers that share a scale


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the file `out`. Raises UsageError with the options that llama.cpp cannot hold."""
    model, tokenizer = job.saved.config.model, job.saved.tokenizer
    vocabulary, problem = as_byte_level(files.parse_json(tokenizer.to_json(), "tokenizer.json"))
    divisible = job.storage != "int8" or model.n_embd % Q8_BLOCK == 0
    require(
        "llama.cpp (architecture arcee)",
        (
            (model.position == "rope", f"position = {model.position} (it has rope)"),
            (model.activation == "relu2", f"activation = {model.activation} (it has relu2)"),
            (model.final_norm, "final_norm = false (it always has one)"),
            (not model.qk_norm, "qk_norm = true"),
            (not model.softcap, f"softcap = {model.softcap}"),
            (problem is None, f"its tokenizer: {problem}"),
            (divisible, f"--int8 needs n_embd divisible by {Q8_BLOCK}, got {model.n_embd}"),
        ),
        HINT,
    )
    assert vocabulary is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        _write(job, path, vocabulary, tokenizer.bos)
        files.write_atomic(out, path.read_bytes(), replace=False)
    return []


def rounded(weights: Tensors, stored: str) -> Tensors:
    """The weights after they were stored and read back: int8 has a float16 scale per 32 numbers here."""
    if stored != "int8":
        return tensors.rounded(weights, stored)
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    small = {name: gguf.quants.quantize(values.astype(np.float32), kind) for name, values in weights.items()}
    return {name: gguf.quants.dequantize(values, kind) for name, values in small.items()}


def matrices(job: ExportJob) -> Tensors:
    """The matrices by llama.cpp's names, float32 or float64."""
    model, weights = job.saved.config.model, job.weights
    one = np.ones(model.n_embd, np.float32)
    out = {"token_embd.weight": normed(weights["wte"]) if model.norm_embedding else weights["wte"]}
    for i in range(model.n_layer):
        ours, theirs = f"layer{i}.", f"blk.{i}."
        out[theirs + "attn_norm.weight"] = out[theirs + "ffn_norm.weight"] = one
        out[theirs + "attn_q.weight"] = pair_rows(weights[ours + "attn_wq"], model, "interleaved")
        out[theirs + "attn_k.weight"] = pair_rows(weights[ours + "attn_wk"], model, "interleaved")
        out[theirs + "attn_v.weight"] = weights[ours + "attn_wv"]
        out[theirs + "attn_output.weight"] = weights[ours + "attn_wo"]
        out[theirs + "ffn_up.weight"] = weights[ours + "mlp_fc1"]
        out[theirs + "ffn_down.weight"] = weights[ours + "mlp_fc2"]
    out["output_norm.weight"] = one
    if not model.tie_embeddings or model.norm_embedding:
        out["output.weight"] = weights["wte" if model.tie_embeddings else "lm_head"]
    return out


def _write(job: ExportJob, path: Path, vocabulary: tuple[list[str], list[str], list[str]], bos: int) -> None:
    import gguf

    config = job.saved.config
    model = config.model
    writer = gguf.GGUFWriter(path, "arcee")
    writer.add_name(config.name)
    writer.add_context_length(model.block_size)
    writer.add_embedding_length(model.n_embd)
    writer.add_block_count(model.n_layer)
    writer.add_feed_forward_length(4 * model.n_embd)
    writer.add_head_count(model.n_head)
    writer.add_head_count_kv(model.n_head)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope_base)
    writer.add_vocab_size(model.vocab)
    kinds = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16", "int8": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[kinds[job.storage]])
    tokens, merges, special = vocabulary
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    # llama.cpp requires a list of merges; these two control bytes never stand side by side
    writer.add_token_merges(merges or ["Ā ā"])
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(bos)
    writer.add_add_bos_token(True)
    if "<end_turn>" in special:
        writer.add_eot_token_id(tokens.index("<end_turn>"))
    if template := job.saved.copied.get("chat_template.jinja"):
        writer.add_chat_template(template.decode())
    for name, values in matrices(job).items():
        data, kind = _stored(gguf, name, values, job.storage)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stored(gguf: Any, name: str, values: np.ndarray, stored: str) -> tuple[np.ndarray, Any]:
    if values.ndim == 1 or stored == "float32":
        return np.ascontiguousarray(tensors.rounded({name: values}, "float32")[name]), None
    if stored == "float16":
        return tensors.to_float16(name, values), None
    if stored == "bfloat16":
        return tensors.to_bfloat16(name, values).view(np.uint8), gguf.GGMLQuantizationType.BF16
    kind = gguf.GGMLQuantizationType.Q8_0
    return gguf.quants.quantize(tensors.rounded({name: values}, "float32")[name], kind), kind
