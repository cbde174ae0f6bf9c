"""microgpt train … --seeds K: models that differ only in their seed; and the progress of several runs at once."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from microgpt.commands.flags import require
from microgpt.config import Config
from microgpt.engines.processes import environment
from microgpt.errors import UsageError
from microgpt.limits import MAX_SEED
from microgpt.runs.listing import RunSummary
from microgpt.terminal import duration, output_json, output_table, say

MOST_SEEDS = 1024
LOSSES = ("loss", "val_loss", "bits_per_byte")


class RunsProgress:
    """The runs that are at work, on stderr: on a terminal a live bar for each, elsewhere a line every 5 seconds."""

    def __init__(self) -> None:
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}
        self.reported = time.monotonic()

    def show(self, runs: list[RunSummary]) -> None:
        """Show the runs that are at work."""
        if sys.stderr.isatty():
            self._draw(runs)
        elif runs and time.monotonic() - self.reported > 5:
            say("  ".join(f"{run.path.name} step {run.step:,} / {run.steps:,} {_loss(run)}" for run in runs))
            self.reported = time.monotonic()

    def _draw(self, runs: list[RunSummary]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        if self.bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn())
            self.bars = Progress(*columns, TextColumn("{task.fields[loss]}"), console=Console(stderr=True))
            self.bars.start()
        for name in self.tasks.keys() - {run.path.name for run in runs}:
            self.bars.remove_task(self.tasks.pop(name))
        for run in runs:
            name = run.path.name
            if name not in self.tasks:
                self.tasks[name] = self.bars.add_task(name, loss="")
            self.bars.update(self.tasks[name], completed=run.step, total=run.steps, loss=_loss(run))

    def __enter__(self) -> RunsProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bars:
            self.bars.stop()


def _loss(run: RunSummary) -> str:
    return "" if run.loss is None else f"loss {run.loss:.4f}"


def refuse_with_seeds(seeds: int, given: Mapping[str, bool]) -> None:
    """Raise UsageError for flags that several seeds do not go with: those of one run, or of its time."""
    require("--seeds", seeds, 1, MOST_SEEDS)
    several = {"--processes": environment()[1] > 1, **given}
    if flag := next((flag for flag, is_given in several.items() if is_given), None):
        hint = "the same command goes on" if flag == "--resume" else "leave it out"
        raise UsageError(f"{flag}: does not go with --seeds, which trains several runs of as many steps each; {hint}")


def train_seeds(config: Config, seeds: int, out: Path, flags: list[str], as_json: bool) -> None:
    """Train the models side by side, or go on with them, and print their losses with mean and spread."""
    from microgpt.engines.ladder import lanes
    from microgpt.experiments.batch import Batch
    from microgpt.experiments.lanes import LaneBatch
    from microgpt.experiments.threads import ThreadBatch, fits

    first = config.run.seed
    require("--seed plus --seeds", first + seeds - 1, 0, MAX_SEED)
    if config.data.path == "-":
        raise UsageError("--seeds: several runs cannot read standard input; name a file")
    configs = {f"seed{seed}": config.replace(run={"seed": seed}) for seed in range(first, first + seeds)}
    say(f"seeds   {first} to {first + seeds - 1}, {config.run.steps:,} steps each, in {out}")
    with RunsProgress() as progress:
        arguments = out, configs, say, progress.show, flags
        as_one = None if config.run.deterministic else lanes(config.run.engine, config.run.device)
        kind = partial(LaneBatch, as_one) if as_one else ThreadBatch if fits(config) else Batch
        runs = kind(*arguments).run()
    means, spreads = ({name: over(runs, name, of) for name in LOSSES} for of in (fmean, spread))
    if as_json:
        rows = [
            {"seed": run.config.run.seed if run.config else None, "path": str(run.path), "step": run.step}
            | {name: getattr(run, name) for name in (*LOSSES, "seconds")}
            for run in runs
        ]
        output_json({"path": str(out), "runs": rows, "mean": means, "spread": spreads})
        return
    titles = ("seed", "step", "loss", "held-out", "bits/byte", "time")
    lines = []
    for run in runs:
        losses = (_figure(getattr(run, name)) for name in LOSSES)
        lines.append([run.path.name.removeprefix("seed"), f"{run.step:,}", *losses, duration(run.seconds or 0.0)])
    for title, figures in (("mean", means), ("spread", spreads)):
        lines.append([title, "", *(_figure(figures[name]) for name in LOSSES), ""])
    output_table([{"header": title, "justify": "right"} for title in titles], lines)
    if means["val_loss"] is None:
        say("note    nothing was held out: --eval-every adds the held-out loss")
    say(f"try     {shlex.join(['microgpt', 'generate', *(str(run.path) for run in runs[:5])])}")


def over(runs: list[RunSummary], name: str, of: Any) -> float | None:
    """The mean or spread of a figure, None where a run has none."""
    found = [getattr(run, name) for run in runs]
    return None if None in found else of(found)


def spread(values: list[float]) -> float | None:
    """The standard deviation of a sample, None of a single value."""
    return stdev(values) if len(values) > 1 else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
