"""A folder that can speak alone: weights, tokenizer, configuration, and all that an exact resume needs.

A checkpoint is never changed once it has its name. Its manifest holds the size and SHA-256 of every file, and
nothing is believed, or given memory, before it agrees.
"""

from __future__ import annotations

import hashlib
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from microgpt import files
from microgpt.config import Config
from microgpt.data import chat_template
from microgpt.engines import lora
from microgpt.errors import CheckpointError, UsageError
from microgpt.model import Tensors, n_params, table
from microgpt.runs import tensors
from microgpt.tokenizers import Tokenizer
from microgpt.tokenizers import read as read_tokenizer

FORMAT = 1
MANIFEST = "MANIFEST.json"
ADAPTERS = "adapters.safetensors"
STEP_FOLDER = re.compile(r"step-(\d{8,})")
HEADER_LIMIT = 10_000_000  # bytes of a safetensors header; ours have 100 a tensor


Count = Annotated[int, Field(ge=0)]


class Best(BaseModel):
    """The step with the lowest held-out loss."""

    model_config = ConfigDict(strict=True, frozen=True)

    step: Count
    val_loss: float


class TrainerState(BaseModel):
    """trainer/state.json: what a run needs, beside the tensors, to go on as if it had never stopped."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    step: Count
    tokens: Count
    seconds: float
    loss: float | None
    val_loss: float | None
    evaluated: Count  # the step of the last evaluation
    best: Best | None
    generator: list[Any]
    data: dict[str, Any]

    def rng(self) -> Random:
        """The run's generator as it stood after the first values were drawn. Raises ValueError or its like."""
        version, keys, spare = self.generator
        rng = Random()
        rng.setstate((version, tuple(keys), spare))
        return rng


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder that was opened: what it is, and its tensors on demand."""

    path: Path
    config: Config
    tokenizer: Tokenizer
    state: dict[str, Any]  # trainer/state.json; empty in a folder without it
    files: dict[str, dict[str, Any]] | None  # the manifest's; None in a folder without it

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.state.get("step", 0))

    def trainer(self) -> TrainerState:
        """The checked state of the trainer. Raises CheckpointError where a run cannot go on from it."""
        where = self.path / "trainer" / "state.json"
        try:
            state = TrainerState.model_validate(self.state)
            state.rng()
        except ValidationError as error:
            first = error.errors()[0]
            raise CheckpointError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{where}: not the state of a generator ({error})") from None
        return state

    def weights(self) -> Tensors:
        """The matrices that the model computes with, its adapters merged in. Raises CheckpointError if damaged."""
        weights, tuned = self.base(), self.config.finetune
        return lora.merge(weights, self.adapters(), tuned.alpha / tuned.lora_rank) if tuned.lora_rank else weights

    def base(self) -> Tensors:
        """The matrices by name without adapters. Raises CheckpointError if a file is damaged."""
        shapes = {w.name: w.shape for w in table(self.config.model)}
        return read_tensors(self.path, "model.safetensors", self.files, shapes)

    def adapters(self) -> Tensors:
        """The adapters of a model that was fine-tuned with them, else nothing. Raises CheckpointError if damaged."""
        rank = self.config.finetune.lora_rank
        shapes = {w.name: w.shape for w in lora.table(self.config.model, rank)}
        return read_tensors(self.path, ADAPTERS, self.files, shapes) if rank else {}

    def tensors(self) -> Tensors:
        """Matrices, adapters, and Adam's moments `m.*`, `v.*` of what learns. Raises CheckpointError if damaged."""
        model, rank = self.config.model, self.config.finetune.lora_rank
        learning = lora.table(model, rank) if rank else table(model)
        shapes = {part + w.name: w.shape for part in ("m.", "v.") for w in learning}
        moments = read_tensors(self.path, "trainer/optimizer.safetensors", self.files, shapes)
        return self.base() | self.adapters() | moments


def write(folder: Path, config: Config, tokenizer: Tokenizer, tensors: Tensors, state: dict[str, Any]) -> Path:
    """Write `folder`/step-XXXXXXXX whole or not at all; returns it. Raises OSError.

    `tensors` are weights and moments; `state` is JSON, with `step`.
    """
    from safetensors.numpy import save

    weights = {w.name: tensors[w.name] for w in table(config.model)}
    rank = config.finetune.lora_rank
    adapters = {w.name: tensors[w.name] for w in lora.table(config.model, rank)} if rank else {}
    moments = {name: value for name, value in tensors.items() if name not in weights and name not in adapters}
    contents = {
        "config.json": files.to_json(describe(config, tokenizer, next(iter(weights.values())).dtype)),
        "generation_config.json": files.to_json(generation_config(config, tokenizer)),
        "tokenizer.json": tokenizer.to_json(),
        "README.md": model_card(config, tokenizer, state).encode(),
        "model.safetensors": save(weights, {"format": "pt"}),
        "trainer/optimizer.safetensors": save(moments, {"format": "pt"}),
        "trainer/state.json": files.to_json(state),
    }
    if rank:
        contents[ADAPTERS] = save(adapters, {"format": "pt"})
    if chat_template.can_chat(tokenizer):
        contents["chat_template.jinja"] = chat_template.TEMPLATE.encode()
        contents["tokenizer_config.json"] = files.to_json(chat_template.tokenizer_config(config.model.block_size))
    final = folder / f"step-{state['step']:08d}"
    if (final / MANIFEST).is_file():
        return final
    if final.exists():  # a file system that renames folders bit by bit left it without its manifest
        files.remove_folder(final)
    with files.new_folder(final) as temporary:
        files.make_folder(temporary / "trainer")
        for name, data in contents.items():
            files.write_new(temporary / name, data)
        entries = {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in contents.items()}
        manifest = {"format": FORMAT, "step": state["step"], "files": entries}
        files.write_new(temporary / MANIFEST, files.to_json(manifest))
    return final


def describe(config: Config, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> dict[str, Any]:
    """config.json: the names that Hugging Face tools know, and our whole configuration."""
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
        "eos_token_id": _end(tokenizer),
        "dtype": str(dtype),
        "microgpt": config.to_dict(),
    }


def _end(tokenizer: Tokenizer) -> int:
    """The token that ends what the model writes: its turn, or the document."""
    return chat_template.end_turn(tokenizer) if chat_template.can_chat(tokenizer) else tokenizer.bos


def generation_config(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: how the model is sampled unless asked otherwise."""
    return {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": _end(tokenizer),
        "do_sample": config.run.temperature > 0,
        "temperature": config.run.temperature,
        "max_length": config.model.block_size,
    }


def model_card(config: Config, tokenizer: Tokenizer, state: dict[str, Any]) -> str:
    """README.md: what the folder holds, in words."""
    model = config.model
    loss = state.get("loss")
    command = "chat" if chat_template.can_chat(tokenizer) else "generate"
    tuned = config.finetune
    origin = ""
    if tuned.base:
        origin = f"\n- fine-tuned from: {tuned.base}"
    if tuned.lora_rank:
        origin += (
            f"\n- adapters of rank {tuned.lora_rank} in {ADAPTERS}: model.safetensors holds W, "
            f"the model is W + {tuned.alpha / tuned.lora_rank:g} B A"
        )
    trained = f"{state['step']} of {config.run.steps} steps" + (f", last loss {loss:.4f}" if loss is not None else "")
    return f"""---
library_name: microgpt
pipeline_tag: text-generation
---

# {config.name}

A GPT of {n_params(model):,} parameters ({model.n_layer} layers, {model.n_embd} wide, {model.n_head} heads,
context {model.block_size}), with a {tokenizer.kind} tokenizer of {model.vocab} tokens.

- family: {model.family}
- trained: {trained}, seed {config.run.seed}
- data: {config.data.dataset or config.data.path or "unknown"}{origin}

    microgpt {command} .
"""


def find(path: Path) -> Path:
    """The model folder that a path means: itself, or the newest checkpoint of a run. Raises CheckpointError."""
    if (path / "config.json").is_file():
        return path
    steps = list_steps(path / "checkpoints")
    if steps:
        return steps[-1]
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder; name a run or model folder (microgpt train makes one)")
    raise CheckpointError(f"{path}: neither a model folder (config.json) nor a run with checkpoints")


def list_steps(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first: named, and with a manifest."""
    if not folder.is_dir():
        return []
    found = ((STEP_FOLDER.fullmatch(entry.name), entry) for entry in folder.iterdir())
    steps = [(int(match[1]), entry) for match, entry in found if match and (entry / MANIFEST).is_file()]
    return [entry for _, entry in sorted(steps)]


def read(path: Path) -> Checkpoint:
    """Open a run, checkpoint or exported folder. Raises CheckpointError with the file that is wrong."""
    path = find(path)
    entries = None
    if (path / MANIFEST).is_file():
        manifest = files.read_json(path / MANIFEST)
        entries = _manifest_files(manifest, path)
        for name in entries:
            if not name.endswith(".safetensors"):  # those are checked when they are loaded
                _read(path, name, entries)
    elif STEP_FOLDER.fullmatch(path.name) or (path / "trainer").exists():
        raise CheckpointError(f"{path / MANIFEST}: missing; the checkpoint is not complete", "E_MANIFEST")
    described = files.parse_json(_read(path, "config.json", entries), str(path / "config.json"))
    given = described.get("microgpt") if isinstance(described, dict) else None
    if not isinstance(given, dict):
        raise CheckpointError(f"{path / 'config.json'}: not a microgpt model; see microgpt import")
    try:
        config = Config.from_dict(given)
    except UsageError as error:
        raise CheckpointError(f"{path / 'config.json'}: {error}") from None
    if config.model.vocab_size is None:
        raise CheckpointError(f"{path / 'config.json'}: model.vocab_size is missing")
    if config.model.n_layer > _size(path / "model.safetensors"):
        raise CheckpointError(f"{path / 'config.json'}: {config.model.n_layer} layers do not fit in model.safetensors")
    tokenizer = read_tokenizer(_read(path, "tokenizer.json", entries), str(path / "tokenizer.json"))
    if tokenizer.vocab_size != config.model.vocab_size:
        raise CheckpointError(
            f"{path / 'tokenizer.json'}: {tokenizer.vocab_size} tokens, but the model has {config.model.vocab_size}"
        )
    state: Any = {} if entries is None else {"step": manifest["step"]}
    if entries is not None and "trainer/state.json" in entries:
        state = files.parse_json(_read(path, "trainer/state.json", entries), str(path / "trainer/state.json"))
        if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] != manifest["step"]:
            raise CheckpointError(f"{path / 'trainer/state.json'}: its step is not the manifest's")
        if not isinstance(state.get("data", {}), dict):
            raise CheckpointError(f"{path / 'trainer/state.json'}: its data is no object")
    return Checkpoint(path, config, tokenizer, state, entries)


def _manifest_files(manifest: Any, path: Path) -> dict[str, dict[str, Any]]:
    where = path / MANIFEST
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{where}: not a manifest")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{where}: format {manifest.get('format')!r}; this version reads format {FORMAT}")
    named = STEP_FOLDER.fullmatch(path.name)
    if named and manifest.get("step") != int(named[1]):
        raise CheckpointError(f"{where}: its step {manifest.get('step')!r} is not the folder's")
    for name, entry in manifest["files"].items():
        if not (
            isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
        ):
            raise CheckpointError(f"{where}: no size and sha256 for {name!r}")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{where}: {name!r} lies outside the folder")
    return dict(manifest["files"])


def _read(path: Path, name: str, entries: dict[str, dict[str, Any]] | None) -> bytes:
    """A file's bytes, equal to what the manifest says of them. Raises CheckpointError."""
    where = path / name
    size = _size(where)
    if entries is not None:
        if name not in entries:
            raise CheckpointError(f"{where}: not in the manifest", "E_MANIFEST")
        if size != entries[name]["size"]:
            raise CheckpointError(
                f"{where}: {size} bytes, the manifest says {entries[name]['size']}; the file is damaged", "E_HASH"
            )
    try:
        data = where.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from error
    if entries is not None and hashlib.sha256(data).hexdigest() != entries[name]["sha256"]:
        raise CheckpointError(f"{where}: its SHA-256 is not the manifest's; the file is damaged", "E_HASH")
    return data


def _size(where: Path) -> int:
    """The size of a plain file: a pipe or device could be read for ever. Raises CheckpointError."""
    try:
        found = where.stat()
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{where}: not a plain file")
    return found.st_size


def read_tensors(
    path: Path, name: str, entries: dict[str, dict[str, Any]] | None, shapes: Mapping[str, tuple[int, ...]]
) -> Tensors:
    """The tensors of a safetensors file, which must be exactly those of `shapes`, as float64 or float32.

    Raises CheckpointError.
    """
    from safetensors import SafetensorError

    where, data = path / name, _read(path, name, entries)
    check_header(data, str(where), shapes)
    try:
        return tensors.decode(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{where}: not a safetensors file ({error})", "E_SAFETENSORS") from None


def check_header(data: bytes, where: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse what the safetensors library lets through: duplicate names, sizes that are not the file's, tensors
    that the model does not have. Raises CheckpointError."""

    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{where}: {reason}", "E_SAFETENSORS")

    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
        raise refuse(f"not a safetensors file (header of {length} bytes in a file of {len(data)})")
    header = files.parse_json(data[8 : 8 + length], where)
    if not isinstance(header, dict):
        raise refuse("not a safetensors file (its header is no object)")
    header.pop("__metadata__", None)
    scaled = [name for name in shapes if isinstance(header.get(name), dict) and header[name].get("dtype") == "I8"]
    shapes = {**shapes, **{name + tensors.SCALE: (shapes[name][0], 1) for name in scaled}}
    if header.keys() != shapes.keys():
        odd = sorted(header.keys() ^ shapes.keys())[0]
        raise refuse(f"tensor {odd!r} is {'unknown to the model' if odd in header else 'missing'}")
    spans = []
    for name, entry in header.items():
        dtype, shape, span = (
            entry.get(key) if isinstance(entry, dict) else None for key in ("dtype", "shape", "data_offsets")
        )
        if not isinstance(dtype, str) or dtype not in tensors.BITS or (dtype != "F32" and name.endswith(tensors.SCALE)):
            raise refuse(f"tensor {name!r} has dtype {dtype!r}; expected one of {', '.join(tensors.BITS)}")
        if shape != list(shapes[name]):
            raise refuse(f"tensor {name!r} has shape {shape!r}; the model's is {list(shapes[name])}")
        size = tensors.BITS[dtype] // 8 * math.prod(shapes[name])
        if not (
            isinstance(span, list)
            and len(span) == 2
            and all(type(x) is int for x in span)
            and span[1] - span[0] == size
        ):
            raise refuse(f"tensor {name!r} lies at {span!r}; expected {size} bytes")
        spans.append((span[0], span[1]))
    ends = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != ends[:-1] or ends[-1] != len(data) - 8 - length:
        raise refuse("its tensors overlap or leave holes")


def rotate(folder: Path, keep: int, best: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one. Raises OSError."""
    for old in list_steps(folder)[:-keep]:
        if best is None or old.name != f"step-{best:08d}":
            files.remove_folder(old)
