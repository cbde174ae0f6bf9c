"""Models for other programs and from other programs: one file per format, found by its name.

Every file that FORMATS names has `write` (see Exporter); those that imports.READERS names also have `read`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from microgpt import files
from microgpt.errors import MachineError, UsageError, install, nearest
from microgpt.model import Tensors, table
from microgpt.runs import checkpoint
from microgpt.runs.checkpoint import Checkpoint, Selection


class Format(NamedTuple):
    """The facts of a format that are known before its file is imported."""

    about: str
    suffix: str  # of the one file; a folder where it begins with "-"
    storages: tuple[str, ...]  # how it can store numbers, the default first
    requires: str | None = None  # the module that must be installed
    ensembles: bool = False  # whether it can hold several models as one


# The file name is the registry: the format X is written by microgpt/formats/X.py, imported when it is used.
FORMATS: dict[str, Format] = {
    "safetensors": Format(
        "a model folder of microgpt without training state", "-model", ("as trained", "float16", "bfloat16", "int8")
    ),
    "kgx": Format("kgx's model.json, every number as text", ".json", ("as trained",)),
    "moonbase": Format("muchq's folder, for characters", "-moonbase", ("float32", "float16")),
    "hf": Format("transformers: Arcee or NanoChat", "-hf", ("float32", "float16", "bfloat16")),
    "gguf": Format("llama.cpp and its relatives", ".gguf", ("float32", "float16", "bfloat16", "int8"), "gguf"),
    "onnx": Format("ONNX Runtime, with a KV cache", ".onnx", ("float32",), "onnx"),
    "html": Format("one page that runs the model in a browser", ".html", ("float16", "int8"), ensembles=True),
}

ALIASES = {"json": "kgx"}  # earlier names


@dataclass(frozen=True, slots=True)
class ExportJob:
    """An opened model, its matrices with the adapters merged, and how the numbers are to be stored."""

    saved: Checkpoint
    weights: Tensors
    storage: str
    custom_code: bool = False
    others: tuple[ExportJob, ...] = ()  # of the models that are one with this


class Exporter(Protocol):
    """The module of a format."""

    def write(self, job: ExportJob, out: Path) -> list[str]:
        """Write the file or folder `out`, which does not exist yet; returns notes for the user.

        Raises UsageError with the options that the format cannot hold, and OSError.
        """


@dataclass(frozen=True, slots=True)
class Exported:
    """The file or folder that was written."""

    path: Path
    to: str
    storage: str
    bytes: int
    notes: list[str]
    checkpoint: Selection | None = None  # of the run that was exported


def exporter(to: str) -> Exporter:
    """The module of a format. Raises UsageError for an unknown name, MachineError where its library is missing."""
    name = ALIASES.get(to, to)
    if name not in FORMATS:
        raise UsageError(f"--to: there is no format {to!r}; {nearest(to, {**FORMATS, **ALIASES})}")
    needed = FORMATS[name].requires
    if needed and not importlib.util.find_spec(needed):
        raise MachineError(f"--to {to}: {needed} is not installed; {install('export')}")
    return cast(Exporter, importlib.import_module(f"microgpt.formats.{name}"))


def export(
    run: Path,
    to: str,
    out: Path | None = None,
    *,
    others: Sequence[Path] = (),
    which: str | int | None = None,
    storage: str | None = None,
    custom_code: bool = False,
    merge: bool = False,
    measure: Callable[[Sequence[Checkpoint], str], None] = lambda models, storage: None,
) -> Exported:
    """Write the model of `run` in the format `to`, its adapters merged; with `merge` there must be some.

    With `others`, which have the same tokenizer, it is an ensemble: a token's probability is the mean of theirs.
    `which` checkpoint of a run is as in runs.checkpoint.read.

    `measure` is called with the opened models and the storage before anything is written, and may refuse by raising.

    Raises UsageError, CheckpointError, NumericError or MachineError.
    """
    module = exporter(to)
    facts = FORMATS[ALIASES.get(to, to)]
    if storage is not None and storage not in facts.storages:
        raise UsageError(f"--to {to}: cannot hold {storage}, only {', '.join(facts.storages)}")
    if custom_code and to != "hf":
        raise UsageError(f"--custom-code: only with --to hf, got --to {to}")
    if others and not facts.ensembles:
        able = ", ".join(name for name, each in FORMATS.items() if each.ensembles)
        raise UsageError(f"--to {to}: holds one model, got {1 + len(others)} runs; several can become {able}")
    opened = [_job(path, which, storage or facts.storages[0], custom_code) for path in (run, *others)]
    ranks = [job.saved.config.finetune.lora_rank for job in opened]
    for path, rank in zip((run, *others), ranks, strict=True):
        if merge and not rank:
            raise UsageError(f"--merge: {path} has no adapters (finetune --lora-rank makes them); leave it out")
    checkpoint.require_same_tokenizer((job.saved.path, job.saved.tokenizer) for job in opened)
    first, *rest = map(_merged, opened)
    job, saved, storage = dataclasses.replace(first, others=tuple(rest)), first.saved, first.storage
    merged = [f"its adapters of rank {rank} are merged into the matrices" for rank in ranks if rank]
    out = out or Path(saved.config.name + facts.suffix)
    if out.exists():
        raise UsageError(f"{out}: exists already; name another file or folder with --out", "E_EXISTS")
    measure([each.saved for each in (first, *rest)], storage)
    with files.disk("be written", out):
        files.make_folders(out.absolute().parent)
        notes = module.write(job, out)
    return Exported(out, to, storage, size(out), [*merged, *notes], saved.selection)


def _job(run: Path, which: str | int | None, storage: str, custom_code: bool) -> ExportJob:
    saved = checkpoint.read(run, which, weights=True)
    loaded = saved.weights()
    weights = {w.name: loaded[w.name] for w in table(saved.config.model)}  # the same file from the same model
    storage = str(weights["wte"].dtype) if storage == "as trained" else storage
    return ExportJob(saved, weights, storage, custom_code)


def _merged(job: ExportJob) -> ExportJob:
    """With a configuration without adapters; its matrices have them merged already."""
    if not job.saved.config.finetune.lora_rank:
        return job
    config = job.saved.config.replace(finetune={"lora_rank": 0})
    return dataclasses.replace(job, saved=dataclasses.replace(job.saved, config=config))


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    found = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in found)
