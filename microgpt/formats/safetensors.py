"""The native model folder: weights and description, a checkpoint without the training state."""

from __future__ import annotations

from pathlib import Path

from microgpt import files
from microgpt.formats import ExportJob
from microgpt.runs import manifest, model_folder, tensors
from microgpt.runs.model_folder import WEIGHTS


def write(job: ExportJob, out: Path) -> list[str]:
    """Write the folder `out`; every command that takes a model opens it."""
    saved = job.saved
    contents = model_folder.describe(saved.config, saved.tokenizer, job.storage, saved.step, saved.state)
    contents[WEIGHTS] = tensors.encode(job.weights, job.storage)
    files.write_folder(out, manifest.seal(contents | saved.copied, saved.step))
    return []
