"""Our own model folder, weights and description only: what a checkpoint is without the training state."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.config import Config
from microgpt.errors import CheckpointError
from microgpt.formats import ExportJob
from microgpt.formats.convert import write_folder
from microgpt.model import Tensors
from microgpt.runs import checkpoint, tensors
from microgpt.runs.checkpoint import FORMAT, MANIFEST, Checkpoint
from microgpt.tokenizers import Tokenizer

KEPT = ("chat_template.jinja", "tokenizer_config.json")  # files of the source folder that belong to the model


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the folder `out`; every command that takes a model opens it."""
    saved = job.saved
    contents = described(saved.config, saved.tokenizer, job.storage, saved.step, saved.state.get("loss"))
    contents["model.safetensors"] = tensors.encode(job.weights, job.storage)
    write_folder(out, sealed(contents | kept(saved), saved.step))
    return []


def described(
    config: Config, tokenizer: Tokenizer, stored: str, step: int = 0, loss: float | None = None
) -> dict[str, bytes]:
    """Everything of a model folder but the weights."""
    about: dict[str, Any] = checkpoint.describe(config, tokenizer, "float32")  # type: ignore[arg-type]
    return {
        "config.json": files.to_json(about | {"dtype": stored}),
        "generation_config.json": files.to_json(checkpoint.generation_config(config, tokenizer)),
        "tokenizer.json": tokenizer.to_json(),
        "README.md": checkpoint.model_card(config, tokenizer, {"step": step, "loss": loss}).encode(),
    }


def kept(saved: Checkpoint) -> dict[str, bytes]:
    """The files of the source folder that are copied as they are. Raises CheckpointError for a damaged one."""
    out = {}
    for name in KEPT:
        if not (saved.path / name).is_file() or (saved.files is not None and name not in saved.files):
            continue
        out[name] = (saved.path / name).read_bytes()
        if saved.files is not None and hashlib.sha256(out[name]).hexdigest() != saved.files[name]["sha256"]:
            raise CheckpointError(f"{saved.path / name}: its SHA-256 is not the manifest's; the file is damaged")
    return out


def trained(weights: Tensors, moments: Tensors, state: dict[str, Any]) -> dict[str, bytes]:
    """The weights, and Adam's moments with the step, where there are any."""
    contents = {"model.safetensors": tensors.encode(weights, str(weights["wte"].dtype))}
    if moments:
        contents["trainer/optimizer.safetensors"] = tensors.encode(moments, str(weights["wte"].dtype))
        contents["trainer/state.json"] = files.to_json(state)
    return contents


def sealed(contents: dict[str, bytes], step: int) -> dict[str, bytes]:
    """The files with their manifest."""
    entries = {name: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for name, d in contents.items()}
    return contents | {MANIFEST: files.to_json({"format": FORMAT, "step": step, "files": entries})}
