"""The progress of a training run on stderr: its plan, a bar with rate and time left, the checkpoints it saved."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from microgpt.commands.terminal import count, duration, printable, say
from microgpt.model import n_params
from microgpt.training.prepare import RunSetup
from microgpt.training.report import Callbacks


def describe_plan(setup: RunSetup) -> list[str]:
    """The plan of a run, a line a subject."""
    config, model, run = setup.config, setup.config.model, setup.config.run
    corpus = setup.corpus
    held = setup.validation.n_held_out
    row = "context" if config.data.packing == "joined" else "document"
    steps = f"{run.steps:,} steps of {count(setup.rows_per_step, row)}"
    expected = setup.choice.seconds_per_step * run.steps
    lines = [f"note    {note}" for note in setup.documents.notes]
    lines += [
        f"data    {setup.documents.source}: {count(corpus.n_documents, 'document')}, {len(corpus.tokens):,} tokens"
        + (f", {held:,} held out" if held else "")
        + f"; {setup.tokenizer.kind} tokenizer, vocabulary {model.vocab}",
        f"model   {model.family}: {n_params(model):,} parameters ({count(model.n_layer, 'layer')}, "
        f"{model.n_embd} wide, {count(model.n_head, 'head')}, context {model.block_size})",
        f"engine  {setup.choice.name} in {setup.choice.dtype}: {setup.choice.why}",
        f"run     {steps}, {'about ' if expected >= 1 else ''}{duration(expected)}",
    ]
    for section in ("model", "optim", "data", "run"):
        keys = config.to_dict()[section]
        lines.append(f"{section:7} " + " ".join(f"{key}={value}" for key, value in keys.items()))
    if config.finetune.base:
        tuned = config.finetune.model_dump().items()
        lines.append("finetune " + " ".join(f"{key}={value}" for key, value in tuned if value is not None))
    return lines


class TrainingProgress(Callbacks):
    """The report of a run on stderr: a live bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.began = self.reported = time.monotonic()
        self.at_start = 0
        self.tokens = 0
        self.steps = 0
        self.compiled = False

    def reading(self, message: str, seconds: float | None) -> None:
        now = time.monotonic()
        if now - self.reported > 2:
            self._line(message)
            self.reported = now

    def plan(self, setup: RunSetup) -> None:
        for line in describe_plan(setup):
            say(line)
        self.steps = setup.config.run.steps
        self.began = self.reported = time.monotonic()
        if sys.stderr.isatty():
            self.bar = self._bar()

    def _bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=False,
        )
        bar.add_task("train", total=self.steps, loss="-", rate="-")
        bar.start()
        return bar

    def compiling(self, name: str, seconds: float | None) -> None:
        if seconds is not None:
            self._line(f"compiled {name} in {seconds:.1f} s")
        elif not self.compiled:
            self._line(name)
            self.compiled = True
        self.began = self.reported = time.monotonic()  # it is no part of the rate

    def resumed(self, path: Path, step: int) -> None:
        say(f"resumed {path} at step {step:,}")
        self.at_start = step

    def progress(self, step: int, loss: float, tokens: int) -> None:
        self.tokens += tokens
        now = time.monotonic()
        seconds = max(now - self.began, 1e-9)
        rate = f"{(step - self.at_start) / seconds:,.0f} steps/s  {self.tokens / seconds:,.0f} tokens/s"
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=step, loss=f"{loss:.4f}", rate=rate)
        elif now - self.reported > 5 or step == self.steps:
            left = duration((self.steps - step) * seconds / max(1, step - self.at_start))
            say(
                f"step {step:,} / {self.steps:,}  loss {loss:.4f}  {rate}"
                + (f"  {left} left" if step < self.steps else "")
            )
            self.reported = now

    def evaluated(self, step: int, loss: float) -> None:
        self._line(f"step {step:,}  held-out loss {loss:.4f}")

    def sample(self, step: int, text: str) -> None:
        self._line(f"step {step:,}  sample: {printable(text)}")

    def saved(self, path: Path) -> None:
        self._line(f"saved   {path}")

    def stopped_early(self, step: int, best: dict[str, Any]) -> None:
        self._line(
            f"stopped at step {step:,}: the best held-out loss stays {best['val_loss']:.4f} of step {best['step']:,}"
        )

    def _line(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
