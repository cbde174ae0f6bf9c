"""The native model folder: weights and description, a checkpoint without the training state."""

from __future__ import annotations

from pathlib import Path

from microgpt import files
from microgpt.formats import ExportJob
from microgpt.runs import manifest, model_folder, tensors
from microgpt.runs.checkpoint import Checkpoint
from microgpt.runs.model_folder import WEIGHTS

KEPT = ("chat_template.jinja", "tokenizer_config.json")  # files of the source folder that belong to the model


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the folder `out`; every command that takes a model opens it."""
    saved = job.saved
    contents = model_folder.describe(saved.config, saved.tokenizer, job.storage, saved.step, saved.state.get("loss"))
    contents[WEIGHTS] = tensors.encode(job.weights, job.storage)
    files.write_folder(out, manifest.seal(contents | kept(saved), saved.step))
    return []


def kept(saved: Checkpoint) -> dict[str, bytes]:
    """The files of the source folder that are copied unchanged. Raises CheckpointError for a damaged one."""
    names = [name for name in KEPT if (saved.path / name).is_file() and (saved.files is None or name in saved.files)]
    return {name: manifest.read_file(saved.path, name, saved.files) for name in names}
