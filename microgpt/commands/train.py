"""microgpt train"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands.flags import DataFlags, ModelFlags, OptimFlags, RunFlags, given, resolve, run_name
from microgpt.config import Config, merge
from microgpt.errors import MicrogptError
from microgpt.runfolder import RunFolder, last_folder, new_folder
from microgpt.terminal import Terminal, say

Flags = Parameter(name="*")


def train(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)] = "names",
    *,
    out: Path | None = None,
    config: Path | None = None,
    size: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    stop_at: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    model: Annotated[ModelFlags, Flags] = ModelFlags(),  # type: ignore[valid-type]
    optim: Annotated[OptimFlags, Flags] = OptimFlags(),  # type: ignore[valid-type]
    data: Annotated[DataFlags, Flags] = DataFlags(),  # type: ignore[valid-type]
    run: Annotated[RunFlags, Flags] = RunFlags(),  # type: ignore[valid-type]
) -> None:
    """Train a model on a scenario or a text file.

    Parameters
    ----------
    source
        A scenario's name, or text: a file, folder, glob, or - for standard input.
    out
        The run's folder (default: runs/NAME, numbered if it is taken).
    config
        A TOML file over the scenario; flags go over both.
    size
        nano, micro, mini, small or medium: sets width, depth, heads, context, learning rate and batch.
    resume
        Go on from the newest checkpoint of the run, to the very same end.
    stop_at
        Save and end at this step, while the schedule stays that of --steps.
    json
        Print the result as one JSON object.
    """
    from microgpt.train import train as train_run

    flags = given(model=model, optim=optim, data=data, run=run)
    if resume:
        out = out or last_folder(run_name(source))
        resolved = Config.from_dict(merge(RunFolder(out).config().to_dict(), flags), "flags")
    else:
        resolved = resolve(source, config, flags, size)
        out = out or new_folder(resolved.name)
    again = shlex.join(["microgpt", "train", source, "--resume", "--out", str(out)])
    try:
        with Terminal() as report:
            result = train_run(resolved, out, resume=resume, stop_at=stop_at, report=report)
    except MicrogptError:
        if RunFolder(out).config_file.is_file():
            say(f"go on   {again}")
        raise
    if json:
        print(jsonlib.dumps(_result(result)))
        return
    for sample in result.samples:
        print(sample)
    if result.step < resolved.run.steps and not result.stopped_early:
        say(f"go on   {again}")
    else:
        say(f"try     {shlex.join(['microgpt', 'generate', str(out)])}")


def _result(result: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(result), "path": str(result.path)}
