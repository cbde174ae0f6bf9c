"""A run from its beginning, or from where it was, to its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from microgpt import files
from microgpt.config import Config
from microgpt.data.datasets import cache_folder
from microgpt.engines.common.compiling import verify_compiler, watch_compiler
from microgpt.engines.ladder import LADDER
from microgpt.errors import DataError, UsageError
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder, new_folder
from microgpt.signals import listen
from microgpt.training.prepare import RunSetup, prepare
from microgpt.training.report import Callbacks
from microgpt.training.resume import other_run, read_newest
from microgpt.training.trainer import Trained, Trainer


def train(
    config: Config,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    max_time: float | None = None,
    callbacks: Callbacks | None = None,
) -> Trained:
    """Train from the beginning, or with `resume` from the newest checkpoint in `out`, to `steps` or `stop_at`.

    `max_time` seconds after the call the run is saved and has ended, wherever it is.
    Raises UsageError, DataError, CheckpointError, MachineError; NumericError where a loss or gradient is no
    longer finite; Stopped after a signal, when the state is saved.
    """
    deadline = None if max_time is None else time.monotonic() + max_time
    callbacks = callbacks or Callbacks()
    folder = RunFolder(Path(out) if out else new_folder(config.name))
    folder.require(run=resume)
    folder.require_free()
    if stop_at is not None and not 0 < stop_at <= config.run.steps:
        raise UsageError(f"--stop-at: must lie between 1 and --steps ({config.run.steps}), got {stop_at}")
    with files.disk("be written", cache_folder()):
        setup = _prepare_again(config, folder, callbacks) if resume else prepare(config, callbacks.reading)
    callbacks.plan(setup)
    if os.environ.get("MICROGPT_VERIFY_JIT") == "1":
        verify_compiler(LADDER[setup.choice.name].requires)
    with folder.lock(), listen() as stop, watch_compiler(callbacks.compiling):
        folder.require(run=resume)  # another trainer may have come and gone while the data was read
        loop = Trainer(setup, folder, callbacks, stop, deadline)
        with files.disk("be written", folder.path):
            if resume:
                loop.restore()
            else:
                loop.begin()
            return loop.run(stop_at or config.run.steps)


def _prepare_again(config: Config, folder: RunFolder, callbacks: Callbacks) -> RunSetup:
    """The setup of a run that goes on. Raises CheckpointError where the data is no longer what its tokenizer knows."""
    if not checkpoint.list_steps(folder.checkpoints):
        return prepare(config, callbacks.reading)  # the run came to its end before its first checkpoint
    newest = read_newest(folder)
    try:
        return prepare(config, callbacks.reading, newest)
    except DataError as error:
        if error.code != "E_UNKNOWN_TOKEN":
            raise
        raise other_run(newest.path, "data", f" ({error})") from None
