"""A checkpoint: a model folder named step-XXXXXXXX with a manifest and all that an exact resume needs.

A checkpoint is never changed once it has its name, and no file of it is trusted before it agrees with the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from microgpt import files
from microgpt.config import Config
from microgpt.data import chat_template
from microgpt.engines import lora
from microgpt.errors import CheckpointError, UsageError
from microgpt.model import Tensors, table
from microgpt.runs import manifest, model_folder
from microgpt.runs.manifest import MANIFEST, Entries, read_file, read_to_copy
from microgpt.runs.model_folder import ADAPTERS, WEIGHTS
from microgpt.runs.tensors import pieces, read_tensors
from microgpt.tokenizers import Tokenizer

STEP_FOLDER = re.compile(r"step-(\d{8,})")
MOMENTS = "trainer/optimizer.safetensors"
STATE = "trainer/state.json"
COPIED = ("chat_template.jinja", "tokenizer_config.json")  # files that belong to the model, whatever its format

TRIES = 100  # to read a run whose checkpoints a trainer replaces meanwhile

Count = Annotated[int, Field(ge=0)]


class Best(BaseModel):
    """The step with the lowest held-out loss."""

    model_config = ConfigDict(strict=True, frozen=True)

    step: Count
    val_loss: float
    bits_per_byte: float | None = None  # older versions did not save it


class Figures(BaseModel):
    """Of trainer/state.json, what is told about a checkpoint; each may be missing."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    loss: float | None = None
    val_loss: float | None = None
    bits_per_byte: float | None = None  # older versions did not save it
    evaluated: Count = 0  # the step of the last evaluation
    best: Best | None = None
    data: dict[str, Any] = {}


class TrainerState(Figures):
    """trainer/state.json: all that a run needs besides the tensors to continue as if it had never stopped."""

    step: Count
    tokens: Count
    seconds: float
    loss: float | None
    val_loss: float | None
    evaluated: Count
    best: Best | None
    generator: list[Any]
    data: dict[str, Any]

    def rng(self) -> Random:
        """The run's generator as it stood after the weights were initialized. Raises ValueError or its like."""
        return to_rng(self.generator)


Read = TypeVar("Read", bound=Figures)


def to_rng(generator: Any) -> Random:
    """The generator whose state is [version, keys, spare] in JSON. Raises ValueError, TypeError or OverflowError."""
    version, keys, spare = generator
    rng = Random()
    rng.setstate((version, tuple(keys), spare))
    return rng


@dataclass(frozen=True, slots=True)
class Selection:
    """Which checkpoint of a run is used: the best one, the last one, or that of a step, as it was asked for."""

    kind: str  # "best", "last" or "step"
    step: int
    last: int  # the step of the newest checkpoint

    @property
    def is_last(self) -> bool:
        """Whether it is the newest checkpoint."""
        return self.step == self.last

    def __str__(self) -> str:
        which = "the best checkpoint, of" if self.kind == "best" else "the checkpoint of"
        return f"{which} step {self.step:,}; the last is of step {self.last:,} (--checkpoint last)"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open model folder, with or without a trainer's state.

    Its tensors are read on demand, when a trainer may have removed the folder; see `read`.
    """

    path: Path
    config: Config
    tokenizer: Tokenizer
    state: dict[str, Any]  # trainer/state.json; empty in a folder without it
    files: Entries | None  # the manifest's; None in a folder without it
    sizes: dict[str, int]  # bytes of every file of the folder
    copied: dict[str, bytes]  # the files that an export copies as they are
    selection: Selection | None = None  # where a run was opened, its checkpoint
    merged: Tensors | None = None  # the result of `weights`, where they were read together with the rest

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.state.get("step", 0))

    def trainer(self) -> TrainerState:
        """The validated state of the trainer. Raises CheckpointError where a run cannot continue from it."""
        where = self.path / STATE
        try:
            state = _validated(TrainerState, self.state, where)
            state.rng()
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{where}: not the state of a generator ({error})") from None
        return state

    def weights(self) -> Tensors:
        """The matrices that the model computes with, its adapters merged in. Raises CheckpointError if damaged."""
        if self.merged is not None:
            return self.merged
        weights, tuned = self.base(), self.config.finetune
        return lora.merge(weights, self.adapters(), tuned.alpha / tuned.lora_rank) if tuned.lora_rank else weights

    def base(self) -> Tensors:
        """The matrices by name without adapters. Raises CheckpointError if a file is damaged."""
        shapes = {w.name: w.shape for w in table(self.config.model)}
        return read_tensors(self.path, WEIGHTS, self.files, shapes)

    def adapters(self) -> Tensors:
        """The adapters of a model fine-tuned with them, else an empty dict. Raises CheckpointError if damaged."""
        rank = self.config.finetune.lora_rank
        shapes = {w.name: w.shape for w in lora.table(self.config.model, rank)}
        return read_tensors(self.path, ADAPTERS, self.files, shapes) if rank else {}

    def tensors(self) -> Tensors:
        """Matrices, adapters, and Adam's moments `m.*`, `v.*` of all that is trained.

        Raises CheckpointError if a file is damaged.
        """
        model, rank = self.config.model, self.config.finetune.lora_rank
        learning = lora.table(model, rank) if rank else table(model)
        shapes = {part + w.name: w.shape for part in ("m.", "v.") for w in learning}
        moments = read_tensors(self.path, MOMENTS, self.files, shapes)
        return self.base() | self.adapters() | moments


def write(folder: Path, config: Config, tokenizer: Tokenizer, tensors: Tensors, state: dict[str, Any]) -> Path:
    """Write `folder`/step-XXXXXXXX whole or not at all; returns it. Raises OSError.

    `tensors` are weights, adapters and moments; `state` is JSON, with `step`.
    """
    final = folder / step_name(state["step"])
    if (final / MANIFEST).is_file():
        return final
    weights = {w.name: tensors[w.name] for w in table(config.model)}
    rank = config.finetune.lora_rank
    adapters = {w.name: tensors[w.name] for w in lora.table(config.model, rank)} if rank else {}
    moments = {name: value for name, value in tensors.items() if name not in weights and name not in adapters}
    dtype = str(next(iter(weights.values())).dtype)
    contents: dict[str, files.Content] = {**model_folder.describe(config, tokenizer, dtype, state["step"], state)}
    contents |= {WEIGHTS: pieces(weights), MOMENTS: pieces(moments), STATE: files.to_json(state)}
    if rank:
        contents[ADAPTERS] = pieces(adapters)
    if chat_template.can_chat(tokenizer):
        contents["chat_template.jinja"] = chat_template.TEMPLATE.encode()
        contents["tokenizer_config.json"] = files.to_json(chat_template.tokenizer_config(config.model.block_size))
    if final.exists():  # a file system that renames folders bit by bit left it without its manifest
        files.remove_folder(final)
    files.write_folder(final, manifest.seal(contents, state["step"]))
    return final


def step_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:08d}"


def list_steps(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first: named, and with a manifest."""
    if not folder.is_dir():
        return []
    found = ((STEP_FOLDER.fullmatch(entry.name), entry) for entry in folder.iterdir())
    steps = [(int(match[1]), entry) for match, entry in found if match and (entry / MANIFEST).is_file()]
    return [entry for _, entry in sorted(steps)]


def rotate(folder: Path, keep: int, best: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one. Raises OSError."""
    for old in list_steps(folder)[:-keep]:
        if best is None or old.name != step_name(best):
            files.remove_folder(old)


def find(path: Path) -> Path:
    """The model folder at a path: itself, or the newest checkpoint of a run. Raises CheckpointError."""
    if (path / "config.json").is_file():
        return path
    for _ in range(TRIES):
        if steps := list_steps(path / "checkpoints"):
            return steps[-1]
        if not any(STEP_FOLDER.fullmatch(entry.name) for entry in (path / "checkpoints").glob("step-*")):
            break  # else a trainer replaced the ones that were listed
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder; name a run or model folder (microgpt train makes one)")
    raise CheckpointError(f"{path}: neither a model folder (config.json) nor a run with checkpoints")


def _select(path: Path, newest: Path, which: str | int | None) -> tuple[Path, Selection | None]:
    """The checkpoint of the run `path` to use, given its newest one; see `read`."""
    if newest == path:
        if which is not None:
            raise UsageError(f"--checkpoint {which}: {path} is one model, no run with checkpoints; leave it out")
        return path, None
    last = step_of(newest)
    if which in (None, "best"):
        best = best_step(newest)
        if best is not None and (path / "checkpoints" / step_name(best) / MANIFEST).is_file():
            return path / "checkpoints" / step_name(best), Selection("best", best, last)
    if which in (None, "last"):
        return newest, Selection("last", last, last)
    if which == "best":
        raise CheckpointError(
            f"{path}: --checkpoint best: it keeps none (train with --eval-every, and --checkpoint-every or --patience)"
        )
    if not str(which).isdecimal():
        raise UsageError(f"--checkpoint: must be last, best or a step, got {which!r}")
    there = {step_of(folder): folder for folder in list_steps(path / "checkpoints")}
    if int(which) not in there:
        steps = ", ".join(map(str, there))
        raise CheckpointError(f"{path}: --checkpoint {which}: there is no checkpoint of this step; there are {steps}")
    return there[int(which)], Selection("step", int(which), last)


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name.removeprefix("step-"))


def best_step(newest: Path) -> int | None:
    """The step of the best checkpoint, as the newest one states it, if there is one. Raises CheckpointError."""
    step, entries = manifest.read(newest, step_of(newest))
    best = _read_state(newest, step, entries).get("best")
    found = best.get("step") if isinstance(best, dict) else None
    return found if type(found) is int else None


def read(path: Path, which: str | int | None = None, *, weights: bool = False) -> Checkpoint:
    """Open a run, checkpoint or exported folder, with `weights` including what `Checkpoint.weights` returns.

    `which` checkpoint of a run is "last", "best" or its step; None is the best where it was kept, else the last.
    A reader of a run that may be in training asks for the weights here, since its folder may be gone later: where a
    trainer removes the folder while it is read, the one that then takes its place is read instead.
    Raises UsageError for a choice that cannot be, CheckpointError with the file that is wrong, and the OSError of a
    file that cannot be read.
    """
    for left in reversed(range(TRIES)):
        folder = newest = find(path)
        try:
            folder, selection = _select(path, newest, which)
            found = _read_folder(folder)
            return replace(found, selection=selection, merged=found.weights() if weights else None)
        except (CheckpointError, OSError):
            if not left or (folder.exists() and newest.exists()):
                raise
    raise AssertionError("the last try returns or raises")


def require_same_tokenizer(models: Iterable[tuple[Path, Tokenizer]]) -> None:
    """Raise CheckpointError where the tokenizers of an ensemble's models, given with their folders, differ."""
    (first, tokenizer), *others = models
    for path, other in others:
        if other.to_json() != tokenizer.to_json():
            raise CheckpointError(f"{path}: its tokenizer is not that of {first}; an ensemble needs one")


def _read_folder(path: Path) -> Checkpoint:
    named = STEP_FOLDER.fullmatch(path.name)
    entries: Entries | None = None
    if (path / MANIFEST).is_file():
        step, entries = manifest.read(path, int(named[1]) if named else None)
        for name in entries:
            if not name.endswith(".safetensors"):  # those are checked when they are loaded
                read_file(path, name, entries, files.LARGE)
    elif named or (path / "trainer").exists():
        raise CheckpointError(f"{path / MANIFEST}: missing; the checkpoint is not complete", "E_MANIFEST")
    config, tokenizer = model_folder.read(path, entries)
    state = {} if entries is None else _read_state(path, step, entries)
    there = [name for name in COPIED if (name in entries if entries is not None else (path / name).exists())]
    copied = {name: read_to_copy(path, name, entries) for name in there}
    sizes = {str(entry.relative_to(path)): entry.stat().st_size for entry in sorted(path.rglob("*")) if entry.is_file()}
    return Checkpoint(path, config, tokenizer, state, entries, sizes, copied)


def _read_state(path: Path, step: int, entries: Entries) -> dict[str, Any]:
    """trainer/state.json, or its step alone in a folder without it. Raises CheckpointError."""
    if STATE not in entries:
        return {"step": step}
    state = files.parse_json(read_file(path, STATE, entries), str(path / STATE))
    if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] != step:
        raise CheckpointError(f"{path / STATE}: its step is not the manifest's")
    _validated(Figures, state, path / STATE)
    return state


def figures(state: Any, where: Path) -> Figures:
    """The figures of a trainer/state.json that was read. Raises CheckpointError."""
    if not isinstance(state, dict):
        raise CheckpointError(f"{where}: not the state of a trainer")
    return _validated(Figures, state, where)


def _validated(shape: type[Read], state: dict[str, Any], where: Path) -> Read:
    try:
        return shape.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
