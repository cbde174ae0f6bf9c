"""Others' models here: muchq's folder, kgx's model.json, Hugging Face folders of Arcee and NanoChat.

Whatever a file claims is compared with the file's size before memory is given for it, and nothing is written
before all of it was understood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.config import Config
from microgpt.errors import CheckpointError, UsageError
from microgpt.formats.convert import write_folder
from microgpt.formats.foreign import read_tokenizer
from microgpt.formats.moonbase import ROLES
from microgpt.formats.safetensors import described, sealed, trained
from microgpt.model import Tensors, n_params, table
from microgpt.runs import checkpoint
from microgpt.tokenizers import Tokenizer

LONGEST = 2**20  # tokens of context; a cache is made for all of them
LARGEST_JSON = 2**30  # bytes; kgx's file of a model of 50 million numbers


@dataclass(frozen=True, slots=True)
class Foreign:
    """A model of another program, understood."""

    source: str
    config: Config
    tokenizer: Tokenizer
    weights: Tensors
    moments: Tensors
    step: int
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written."""

    path: Path
    source: str
    n_params: int
    vocab_size: int
    step: int
    notes: list[str]


def import_model(path: Path, out: Path) -> Imported:
    """Write the model at `path` as our folder `out`. Raises CheckpointError with the file that is wrong, UsageError."""
    if out.exists():
        raise UsageError(f"{out}: is there already; name another folder with --out", "E_EXISTS")
    read = reader(path)
    found = read(path)
    model = found.config.model
    for name, values in (found.weights | found.moments).items():
        if not np.isfinite(values).all():
            raise CheckpointError(f"{path}: tensor {name!r} holds a number that is not finite", "E_SAFETENSORS")
    stored = str(found.weights["wte"].dtype)
    contents = described(found.config, found.tokenizer, stored, found.step)
    contents |= trained(found.weights, found.moments, {"step": found.step})
    template = path / "chat_template.jinja"
    if path.is_dir() and template.is_file() and template.stat().st_size < 2**20:
        contents["chat_template.jinja"] = template.read_bytes()
    with files.disk("be written", out):
        files.make_folders(out.absolute().parent)
        write_folder(out, sealed(contents, found.step))
    return Imported(out, found.source, n_params(model), model.vocab, found.step, found.notes)


def reader(path: Path) -> Callable[[Path], Foreign]:
    """Which program's model lies at `path`. Raises CheckpointError."""
    from microgpt.formats.hf_import import read_hf

    if path.is_file() and (path.suffix == ".json" or _begins_as_json(path)):
        return read_kgx
    if (path / "meta.json").is_file():
        return read_moonbase
    if (path / "model.json").is_file():
        return lambda folder: read_kgx(folder / "model.json")
    if (path / "config.json").is_file():
        return read_hf
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    raise CheckpointError(
        f"{path}: not a model that this version imports; expected muchq's folder (meta.json), kgx's model.json, "
        "or a Hugging Face folder (config.json)"
    )


def _begins_as_json(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(1) == b"{"
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def sizes(given: Any, where: str, names: dict[str, str]) -> dict[str, int]:
    """The model's sizes from a file's keys; `names` maps ours to the file's. Raises CheckpointError."""
    if not isinstance(given, dict):
        raise CheckpointError(f"{where}: expected an object with {', '.join(names.values())}")
    out = {}
    for ours, theirs in names.items():
        value = given.get(theirs)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{where}: {theirs} must be a whole number above 0, got {value!r}")
        out[ours] = value
    if out["block_size"] > LONGEST:
        raise CheckpointError(f"{where}: {names['block_size']} must be at most {LONGEST:,}, got {out['block_size']:,}")
    return out


def configure(name: str, model: dict[str, Any], file_size: int, where: str, **sections: Any) -> Config:
    """A configuration whose model can lie in a file of `file_size` bytes. Raises CheckpointError."""
    least = model["n_layer"] * 12 * model["n_embd"] ** 2 + model["vocab_size"] * model["n_embd"]
    if least > file_size:  # a byte a number would already be too many
        raise CheckpointError(f"{where}: sizes of at least {least} numbers, but the weights have {file_size} bytes")
    try:
        return Config.from_dict({"name": name, "model": model, **sections})
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from None


def read_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """A safetensors file of exactly these tensors. Raises CheckpointError."""
    limit = sum(8 * int(np.prod(shape, dtype=object)) for shape in shapes.values()) + checkpoint.HEADER_LIMIT
    size = file_size(path)
    if size > limit:
        raise CheckpointError(f"{path}: {size} bytes, at most {limit} for this model", "E_SAFETENSORS")
    return checkpoint.read_tensors(path.parent, path.name, None, shapes)


def file_size(path: Path) -> int:
    """Bytes of a file. Raises CheckpointError."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def read_moonbase(path: Path) -> Foreign:
    """muchq's folder: meta.json, weights.safetensors, and the state of its training if it is there."""
    meta_file, weights_file = path / "meta.json", path / "weights.safetensors"
    meta = files.read_json(meta_file)
    where = str(meta_file)
    names = {key: key for key in ("vocab_size", "n_embd", "n_head", "n_layer", "block_size")}
    model = {"family": "classic", **sizes(meta, where, names)}
    config = configure(path.resolve().name, model, file_size(weights_file), where)
    shapes: dict[str, tuple[int, ...]] = {w.name: w.shape for w in table(config.model)}
    tokenizer, order = _moonbase_tokenizer(path, meta, config.model.vocab)
    weights = read_safetensors(weights_file, shapes)
    moments: Tensors = {}
    step = 0
    notes = []
    state_file = path / "train_state.json"
    optimizer = {part: path / f"optimizer_{part}.safetensors" for part in ("m", "v")}
    if all(file.is_file() for file in (*optimizer.values(), state_file)):
        state = files.read_json(state_file)
        given = state.get("step") if isinstance(state, dict) else None
        if type(given) is not int or given < 0:
            raise CheckpointError(f"{state_file}: step must be a whole number, got {given!r}")
        step = given
        for part, file in optimizer.items():
            moments |= {f"{part}.{name}": values for name, values in read_safetensors(file, shapes).items()}
        notes.append(f"Adam's moments after {step} steps came along")
    return Foreign("muchq's folder", config, tokenizer, in_order(weights, order), in_order(moments, order), step, notes)


def in_order(tensors: Tensors, order: np.ndarray) -> Tensors:
    """The same with the rows of the tables (wte, lm_head and their moments) taken in this order."""
    tables = ("wte", "lm_head")
    return {name: values[order] if name.rpartition(".")[2] in tables else values for name, values in tensors.items()}


def _moonbase_tokenizer(path: Path, meta: dict[str, Any], vocab: int) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer, and which row of muchq's tables each of our ids takes."""
    where = str(path / "meta.json")
    if "chars" not in meta:
        if not (path / "tokenizer.json").is_file():
            raise CheckpointError(f"{where}: neither chars in it nor a tokenizer.json beside it")
        return read_tokenizer(path, vocab)
    special = meta.get("special_tokens") or []
    if special not in ([], ROLES):
        raise CheckpointError(f"{where}: special_tokens {special!r}; expected none, or {', '.join(ROLES)}")
    tokenizer = char_tokenizer(meta["chars"], where, (*special, "bos"))
    if tokenizer.vocab_size != vocab:
        raise CheckpointError(f"{where}: {tokenizer.vocab_size} tokens, but vocab_size is {vocab}")
    return tokenizer, np.arange(vocab)


def char_tokenizer(chars: Any, where: str, special: tuple[str, ...] = ("bos",)) -> Tokenizer:
    """A character tokenizer of a file's list. Raises CheckpointError."""
    from microgpt.tokenizers.char import Char

    if not isinstance(chars, list) or not all(isinstance(char, str) and len(char) == 1 for char in chars):
        raise CheckpointError(f"{where}: the characters must be a list of single characters")
    if any("\ud800" <= char <= "\udfff" for char in chars):
        raise CheckpointError(f"{where}: half a surrogate pair among the characters")
    try:
        return Char("".join(chars), special)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None


def read_kgx(path: Path) -> Foreign:
    """kgx's model.json: learned positions, ReLU squared, no final norm, head of its own, BOS last."""
    where = str(path)
    content = files.read_json(path, LARGEST_JSON)
    names = {key: key for key in ("n_embd", "n_head", "n_layer", "block_size", "vocab_size")}
    model: dict[str, Any] = {"family": "classic", **sizes(content, where, names)}
    model["activation"] = content.get("activation", "relu2")  # kgx has no such key; our own export writes it
    config = configure(
        path.resolve().parent.name or "kgx",
        {**model, "init_std": 0.02, "residual_init": "zero"},
        file_size(path),
        where,
        optim={"beta1": 0.9, "beta2": 0.95, "schedule": "cosine"},
    )
    tokenizer = char_tokenizer(content.get("uchars"), where)
    if tokenizer.vocab_size != config.model.vocab:
        raise CheckpointError(f"{where}: {tokenizer.vocab_size} tokens, but vocab_size is {config.model.vocab}")
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
