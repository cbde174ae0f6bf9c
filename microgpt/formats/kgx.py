"""kgx's model.json: sizes, characters and every number as nested lists.

kgx computes one architecture: learned positions, ReLU squared, no final norm, an untied head, BOS last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.errors import CheckpointError
from microgpt.formats import ExportJob
from microgpt.formats.convert import GIST_HINT, gist_needs, require
from microgpt.formats.foreign import Foreign, char_tokenizer, configure, reading, sizes
from microgpt.model import table
from microgpt.runs import tensors
from microgpt.runs.manifest import plain_size

SIZES = ("n_embd", "n_head", "n_layer", "block_size", "vocab_size")
LARGEST = 2**30  # bytes of a file that is read; that of a model of 50 million numbers


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the file `out`. Raises UsageError for a model of another architecture."""
    config, tokenizer = job.saved.config, job.saved.tokenizer
    model = config.model
    chars = getattr(tokenizer, "chars", None)
    alone = len(tokenizer.special) == 1, "special tokens beside BOS"
    require("kgx's model.json", (*gist_needs(model, tokenizer), alone), GIST_HINT)
    weights = tensors.rounded(job.weights, job.storage)
    content = {
        "uchars": list(chars or ""),
        **{size: getattr(model, size) for size in SIZES},
        "activation": model.activation,
        **reading(config),
        "state_dict": {name: values.tolist() for name, values in weights.items()},
    }
    files.write_atomic(out, files.to_json(content, indent=None), replace=False)
    if model.activation == "relu2":
        return []
    return [f"kgx's own program computes ReLU squared; this model's activation is {model.activation} (a key beside)"]


def read(path: Path) -> Foreign:
    """A model.json, or the one of a folder. Raises CheckpointError."""
    path = path / "model.json" if path.is_dir() else path
    where = str(path)
    content = files.read_json(path, LARGEST)
    model: dict[str, Any] = {"family": "classic", **sizes(content, where, {key: key for key in SIZES})}
    model["activation"] = content.get("activation", "relu2")  # kgx has no such key; `write` adds it
    config = configure(
        path.resolve().parent.name or "kgx",
        {**model, "init_std": 0.02, "residual_init": "zero"},
        plain_size(path),
        where,
        content,
        optim={"beta1": 0.9, "beta2": 0.95, "schedule": "cosine"},
    )
    tokenizer = char_tokenizer(content.get("uchars"), config.model.vocab, where)
    given = content.get("state_dict")
    shapes = {w.name: w.shape for w in table(config.model)}
    if not isinstance(given, dict) or given.keys() != shapes.keys():
        odd = sorted((given.keys() if isinstance(given, dict) else set()) ^ shapes.keys())
        raise CheckpointError(f"{where}: state_dict has not the model's tensors (see {odd[0]!r})")
    weights = {name: _matrix(given[name], shape, f"{where}: {name}") for name, shape in shapes.items()}
    return Foreign("kgx's model.json", config, tokenizer, weights, {}, 0, [])


def _matrix(rows: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """Nested lists as a float64 matrix of this shape. Raises CheckpointError."""
    good = isinstance(rows, list) and len(rows) == shape[0]
    good = good and all(isinstance(row, list) and len(row) == shape[1] for row in rows)
    if not good:
        raise CheckpointError(f"{where}: expected {shape[0]} lists of {shape[1]} numbers")
    if any(type(x) not in (float, int) for row in rows for x in row):
        raise CheckpointError(f"{where}: something that is not a number")
    try:
        return np.array(rows, dtype=np.float64)
    except OverflowError:
        raise CheckpointError(f"{where}: a number beyond float64") from None
