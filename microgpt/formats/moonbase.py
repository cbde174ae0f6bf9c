"""muchq's folder: weights.safetensors and meta.json, for character models of the gist's architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.errors import CheckpointError
from microgpt.formats import ExportJob
from microgpt.formats.convert import GIST_HINT, gist_needs, require
from microgpt.formats.foreign import Foreign, char_tokenizer, configure, in_order, read_tokenizer, reading, sizes
from microgpt.model import Tensors, table
from microgpt.runs import tensors
from microgpt.runs.manifest import plain_size
from microgpt.tokenizers import Tokenizer

SIZES = ("vocab_size", "n_embd", "n_head", "n_layer", "block_size")
ROLES = ["user", "assistant", "end_turn"]


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the folder `out`. Raises UsageError for a model of another architecture."""
    tokenizer, model = job.saved.tokenizer, job.saved.config.model
    chars: str = getattr(tokenizer, "chars", "")
    special = tokenizer.special
    chat = all(role in special for role in ROLES)
    relu = model.activation == "relu", f"activation = {model.activation} (it has relu)"
    require("muchq's folder", (*gist_needs(model, tokenizer), relu), GIST_HINT)
    kept = [*(ROLES if chat else ()), "bos"]
    rows = [*range(len(chars)), *(special[name] for name in kept)]
    meta = {size: getattr(model, size) for size in SIZES} | {"vocab_size": len(rows), "chars": list(chars)}
    meta |= reading(job.saved.config)
    if chat:
        meta["special_tokens"] = ROLES
    weights = job.weights | {name: job.weights[name][rows] for name in ("wte", "lm_head")}
    stored = tensors.encode(weights, job.storage)
    files.write_folder(out, {"meta.json": files.to_json(meta), "weights.safetensors": stored})
    return [f"its token <{name}> is left out: muchq's program has none" for name in special if name not in kept]


def read(path: Path) -> Foreign:
    """A folder with its tokenizer, and the state of its training if it is there. Raises CheckpointError."""
    meta_file, weights_file = path / "meta.json", path / "weights.safetensors"
    meta, where = files.read_json(meta_file, files.LARGE), str(meta_file)
    model = {"family": "classic", **sizes(meta, where, {key: key for key in SIZES})}
    config = configure(path.resolve().name, model, plain_size(weights_file), where, meta)
    shapes: dict[str, tuple[int, ...]] = {w.name: w.shape for w in table(config.model)}
    tokenizer, order = _tokenizer(path, meta, config.model.vocab)
    weights = in_order(tensors.read_tensors(path, weights_file.name, None, shapes), order)
    moments, step = _training_state(path, shapes)
    notes = [f"Adam's moments after {step} steps are included"] if moments else []
    return Foreign("muchq's folder", config, tokenizer, weights, in_order(moments, order), step, notes)


def _training_state(path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[Tensors, int]:
    """Adam's moments and the step, where the folder has all of their files."""
    state_file = path / "train_state.json"
    optimizer = {part: f"optimizer_{part}.safetensors" for part in ("m", "v")}
    if not state_file.is_file() or not all((path / name).is_file() for name in optimizer.values()):
        return {}, 0
    state = files.read_json(state_file)
    step = state.get("step") if isinstance(state, dict) else None
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{state_file}: step must be a whole number, got {step!r}")
    moments: Tensors = {}
    for part, file in optimizer.items():
        read = tensors.read_tensors(path, file, None, shapes)
        moments |= {f"{part}.{name}": values for name, values in read.items()}
    return moments, step


def _tokenizer(path: Path, meta: dict[str, Any], vocab: int) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer, and the row of muchq's tables that each of our ids takes."""
    where = str(path / "meta.json")
    if "chars" not in meta:
        if not (path / "tokenizer.json").is_file():
            raise CheckpointError(f"{where}: neither chars in it nor a tokenizer.json beside it")
        return read_tokenizer(path, vocab)
    special = meta.get("special_tokens") or []
    if special not in ([], ROLES):
        raise CheckpointError(f"{where}: special_tokens {special!r}; expected none, or {', '.join(ROLES)}")
    return char_tokenizer(meta["chars"], vocab, where, (*special, "bos")), np.arange(vocab)
