"""Models that open elsewhere: one file a format, found by its name in this table."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from microgpt import files
from microgpt.config import nearest
from microgpt.errors import MachineError, UsageError, install
from microgpt.model import Tensors
from microgpt.runs import checkpoint
from microgpt.runs.checkpoint import Checkpoint


class Format(NamedTuple):
    """What is known of a format before its file is imported."""

    about: str
    module: str
    suffix: str  # of the one file; a folder where it begins with "-"
    storages: tuple[str, ...]  # how it can hold numbers, the default first
    requires: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "safetensors": Format(
        "our model folder without training state",
        "safetensors",
        "-model",
        ("as trained", "float16", "bfloat16", "int8"),
    ),
    "json": Format("kgx's model.json: every number in words", "kgx", ".json", ("as trained",)),
    "moonbase": Format("muchq's folder, for characters", "moonbase", "-moonbase", ("float32", "float16")),
    "hf": Format("transformers: Arcee or NanoChat", "hf", "-hf", ("float32", "float16", "bfloat16")),
    "gguf": Format(
        "llama.cpp and what is built on it", "gguf", ".gguf", ("float32", "float16", "bfloat16", "int8"), ("gguf",)
    ),
    "onnx": Format("ONNX Runtime, with a KV cache", "onnx", ".onnx", ("float32",), ("onnx",)),
    "html": Format("one page that runs the model in a browser", "html", ".html", ("float16", "int8")),
}


@dataclass(frozen=True, slots=True)
class ExportJob:
    """What is exported: an opened model, its matrices, and how the numbers are wanted."""

    saved: Checkpoint
    weights: Tensors
    storage: str
    custom_code: bool = False


class Exporter(Protocol):
    """What each file of this package offers."""

    def write(self, job: ExportJob, out: Path) -> list[str]:
        """Write the file or folder `out`, which is not there yet; returns what a user should be told.

        Raises UsageError with the option that the format cannot hold, and OSError.
        """


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    to: str
    storage: str
    bytes: int
    notes: list[str]


def export(
    run: Path,
    to: str,
    out: Path | None = None,
    *,
    storage: str | None = None,
    custom_code: bool = False,
    merge: bool = False,
    measure: Callable[[str], None] = lambda storage: None,
) -> Exported:
    """Write the model of `run` as `to`, its adapters merged; `merge` insists on there being some.

    `measure` is called with the storage before anything is written, and may refuse by raising.

    Raises UsageError, CheckpointError, NumericError or MachineError.
    """
    if to not in FORMATS:
        raise UsageError(f"--to: there is no format {to!r}; {nearest(to, FORMATS)}")
    facts = FORMATS[to]
    if storage is not None and storage not in facts.storages:
        raise UsageError(f"--to {to}: cannot hold {storage}, only {', '.join(facts.storages)}")
    if custom_code and to != "hf":
        raise UsageError(f"--custom-code: only with --to hf, got --to {to}")
    for needed in facts.requires:
        if not importlib.util.find_spec(needed):
            raise MachineError(f"--to {to}: {needed} is not installed; {install('export')}")
    saved = checkpoint.read(run)
    weights = saved.weights()
    if storage is None:
        storage = str(weights["wte"].dtype) if facts.storages[0] == "as trained" else facts.storages[0]
    merged = []
    if rank := saved.config.finetune.lora_rank:
        merged = [f"its adapters of rank {rank} are merged into the matrices"]
        saved = dataclasses.replace(saved, config=saved.config.replace(finetune={"lora_rank": 0}))
    elif merge:
        raise UsageError(f"--merge: {run} has no adapters (finetune --lora-rank makes them); leave it out")
    out = out or Path(saved.config.name + facts.suffix)
    if out.exists():
        raise UsageError(f"{out}: is there already; name another file or folder with --out", "E_EXISTS")
    exporter: Exporter = importlib.import_module(f"microgpt.formats.{facts.module}")  # type: ignore[assignment]
    measure(storage)
    with files.disk("be written", out):
        files.make_folders(out.absolute().parent)
        notes = exporter.write(ExportJob(saved, weights, storage, custom_code), out)
    return Exported(out, to, storage, size(out), [*merged, *notes])


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    found = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in found)
