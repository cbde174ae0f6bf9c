"""A training run from its beginning, or from its newest checkpoint, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.config import Config
from microgpt.engines import Engine
from microgpt.engines.common.compiling import watch_compiler
from microgpt.engines.processes import join
from microgpt.errors import UsageError
from microgpt.runs.folder import RunFolder, new_folder
from microgpt.signals import StopRequest, listen
from microgpt.training.follow import lead
from microgpt.training.pace import Pace
from microgpt.training.prepare import prepare
from microgpt.training.report import Callbacks, Trained
from microgpt.training.resume import prepare_resumed, read_newest
from microgpt.training.trainer import Trainer

# The first run on a machine measures the engines, which takes seconds; unless it may not take longer than this.
LONG = 60.0


def train(
    config: Config,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    max_time: float | None = None,
    tune: bool = True,
    callbacks: Callbacks | None = None,
    verify: bool = False,
    shard: bool = False,
    stop: StopRequest | None = None,
    beside: Callable[[Engine], Engine] | None = None,
) -> Trained:
    """Train from the beginning, or with `resume` from the newest checkpoint in `out`, to `steps` or `stop_at`.

    The run ends `max_time` seconds after the call, and its schedule with it, unless its steps end before. With `verify`
    a long text is hashed even if its files have kept their sizes and times; with `tune`, what is fast on this machine
    is measured before a long run, once. The first of several processes leads the others, which call
    training.follow.follow; with `shard` each keeps a part of Adam's moments. One of several models that train side by
    side in threads is given the `stop` that signals to the process set, and what makes its engine one of theirs.
    Raises UsageError, DataError, CheckpointError, MachineError; NumericError where a loss or gradient is not finite;
    Stopped after a signal, when the state is saved.
    """
    began = time.monotonic()
    callbacks = callbacks or Callbacks()
    folder = RunFolder(Path(out) if out else new_folder(config.name))
    folder.require(run=resume)
    processes = join()
    if processes.size > 1:
        processes.shard = shard
    with ExitStack() as stack:
        if resume:
            stack.enter_context(folder.lock())
        else:
            folder.require_free()
        saved = read_newest(folder) if resume else None
        config, seconds = timed(config, max_time, saved.state.step if saved else 0)
        options: dict[str, Any] = {
            "measure": seconds is None or seconds >= LONG,
            "verify": verify,
            "tune": tune,
            "processes": processes.size,
        }
        stack.enter_context(watch_compiler(callbacks.compiling))
        with files.disk("be written", files.cache_folder("")):
            setup = (
                prepare_resumed(config, saved.checkpoint, callbacks.reading, **options)
                if saved
                else prepare(config, callbacks.reading, **options)
            )
        steps = setup.config.run.steps
        if stop_at is not None and not 0 < stop_at <= steps:
            raise UsageError(f"--stop-at: must lie between 1 and --steps ({steps}), got {stop_at}")
        callbacks.plan(setup)
        if not resume:  # a new folder is made when nothing can be refused any more
            stack.enter_context(folder.lock())
        folder.require(run=resume)  # another trainer may have come and gone while the data was read
        if processes.size > 1:
            lead(processes, setup, folder.path, stop_at or steps, saved.state if saved else None, seconds is not None)
        stop = stop or stack.enter_context(listen(processes.size > 1))
        stack.enter_context(files.disk("be written", folder.path, "continue with --resume"))
        deadline = None if seconds is None else began + seconds
        trainer = Trainer(setup, folder, callbacks, stop, deadline, processes)
        trainer.engine = beside(trainer.engine) if beside else trainer.engine
        if saved:
            trainer.restore(saved)
        else:
            with files.disk("be written", folder.path):  # there is nothing yet to continue from
                trainer.begin()
        del saved  # its tensors are the engine's now
        trainer.train(stop_at or steps)
        return trainer.finish()


def timed(config: Config, max_time: float | None, step: int) -> tuple[Config, float | None]:
    """The configuration of a run from `step` on with its time, and the seconds that are left of it, None for any."""
    if step and step == config.run.steps:
        return config, None
    left = 1 - Pace(config.schedule_from, config.run.steps, config.pace).progress(step)
    if max_time is not None:
        return config.model_copy(update={"max_seconds": min(max_time / left, 1e9)}), max_time
    return config, config.max_seconds * left or None
