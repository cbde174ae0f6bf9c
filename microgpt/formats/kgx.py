"""kgx's model.json: sizes, characters and every number as nested lists."""

from __future__ import annotations

from pathlib import Path

from microgpt import files
from microgpt.formats import ExportJob
from microgpt.formats.convert import require
from microgpt.runs import tensors

SIZES = ("n_embd", "n_head", "n_layer", "block_size", "vocab_size")


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the file `out`. kgx computes one architecture; a model with another is refused."""
    config, tokenizer = job.saved.config, job.saved.tokenizer
    model = config.model
    chars = getattr(tokenizer, "chars", None)
    require(
        "kgx's model.json",
        (
            (tokenizer.kind == "char", f"its tokens are characters, not {tokenizer.kind}"),
            (len(tokenizer.special) == 1, "special tokens beside BOS"),
            (model.position == "learned", f"position = {model.position} (it has learned ones)"),
            (model.norm_embedding, "norm_embedding = false"),
            (not model.final_norm, "final_norm = true"),
            (not model.tie_embeddings, "tie_embeddings = true"),
            (not model.qk_norm, "qk_norm = true"),
            (not model.softcap, f"softcap = {model.softcap}"),
        ),
    )
    weights = tensors.rounded(job.weights, job.storage)
    content = {
        "uchars": list(chars or ""),
        **{size: getattr(model, size) for size in SIZES},
        "activation": model.activation,
        "state_dict": {name: values.tolist() for name, values in weights.items()},
    }
    files.write_atomic(out, files.to_json(content, indent=None))
    if model.activation == "relu2":
        return []
    return [f"kgx's own program computes ReLU squared; this model's activation is {model.activation} (a key beside)"]
