"""Import models of other programs as model folders. Nothing is written before a model was read completely."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from microgpt import files
from microgpt.errors import CheckpointError, UsageError
from microgpt.formats.foreign import Foreign
from microgpt.model import n_params
from microgpt.runs.checkpoint import MOMENTS, STATE
from microgpt.runs.manifest import read_to_copy, seal
from microgpt.runs.model_folder import WEIGHTS, describe
from microgpt.runs.tensors import encode, require_finite

TEMPLATE = "chat_template.jinja"

# The file by which a folder is recognized, and the file of this package whose `read` opens it; the first wins.
READERS = {"meta.json": "moonbase", "model.json": "kgx", "config.json": "hf"}


@dataclass(frozen=True, slots=True)
class Imported:
    """The folder that was written."""

    path: Path
    source: str
    n_params: int
    vocab_size: int
    step: int
    notes: list[str]


def import_model(path: Path, out: Path) -> Imported:
    """Write the model at `path` as the model folder `out`. Raises UsageError; CheckpointError naming the file;
    NumericError where a number is not finite.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already; name another folder with --out", "E_EXISTS")
    found = read(path)
    model = found.config.model
    require_finite(found.weights | found.moments, str(path))
    stored = str(found.weights["wte"].dtype)
    contents = describe(found.config, found.tokenizer, stored, found.step)
    contents[WEIGHTS] = encode(found.weights, stored)
    if found.moments:
        contents |= {MOMENTS: encode(found.moments, stored), STATE: files.to_json({"step": found.step})}
    if path.is_dir() and (path / TEMPLATE).exists():
        contents[TEMPLATE] = read_to_copy(path, TEMPLATE, None)
    with files.disk("be written", out):
        files.make_folders(out.absolute().parent)
        files.write_folder(out, seal(contents, found.step))
    return Imported(out, found.source, n_params(model), model.vocab, found.step, found.notes)


def read(path: Path) -> Foreign:
    """The model at `path`, opened by the reader of its format. Raises CheckpointError."""
    names = [name for mark, name in READERS.items() if (path / mark).is_file()]
    if path.is_file() and (path.suffix == ".json" or _begins_as_json(path)):
        names = ["kgx"]
    if names:
        found: Foreign = importlib.import_module(f"microgpt.formats.{names[0]}").read(path)
        return found
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    raise CheckpointError(
        f"{path}: not a model that this version imports; expected muchq's folder (meta.json), kgx's model.json, "
        "or a Hugging Face folder (config.json)"
    )


def _begins_as_json(path: Path) -> bool:
    with files.readable(path), files.open_plain(path) as file:
        return file.read(1) == b"{"
