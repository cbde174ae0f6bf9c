"""muchq's folder: weights.safetensors and meta.json, for character models of the gist's architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.formats import ExportJob
from microgpt.formats.convert import require, write_folder
from microgpt.runs import tensors

ROLES = ["user", "assistant", "end_turn"]


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the folder `out`."""
    tokenizer, model = job.saved.tokenizer, job.saved.config.model
    chars: str = getattr(tokenizer, "chars", "")
    special = tokenizer.special
    chat = all(role in special for role in ROLES)
    require(
        "muchq's folder",
        (
            (tokenizer.kind == "char", f"its tokens are characters, not {tokenizer.kind}"),
            (model.position == "learned", f"position = {model.position} (it has learned ones)"),
            (model.activation == "relu", f"activation = {model.activation} (it has relu)"),
            (model.norm_embedding, "norm_embedding = false"),
            (not model.final_norm, "final_norm = true"),
            (not model.tie_embeddings, "tie_embeddings = true"),
            (not model.qk_norm, "qk_norm = true"),
            (not model.softcap, f"softcap = {model.softcap}"),
        ),
    )
    kept = [*(ROLES if chat else ()), "bos"]
    rows = [*range(len(chars)), *(special[name] for name in kept)]
    meta: dict[str, Any] = {
        "vocab_size": len(rows),
        "n_embd": model.n_embd,
        "n_head": model.n_head,
        "n_layer": model.n_layer,
        "block_size": model.block_size,
        "chars": list(chars),
    }
    if chat:
        meta["special_tokens"] = ROLES
    weights = job.weights | {name: job.weights[name][rows] for name in ("wte", "lm_head")}
    stored = tensors.encode(weights, job.storage)
    write_folder(out, {"meta.json": files.to_json(meta), "weights.safetensors": stored})
    return [f"its token <{name}> stays behind: muchq's program knows none" for name in special if name not in kept]
