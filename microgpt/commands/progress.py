"""The progress of a training run on stderr: its plan, a bar with rate and time left, the checkpoints it saved."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from microgpt.model import n_params
from microgpt.runs.checkpoint import Selection
from microgpt.terminal import count, duration, say, show_loss
from microgpt.training.prepare import RunSetup
from microgpt.training.report import Callbacks
from microgpt.training.trackers import Tracker

PLAN_LINES = 7
PLAN_COLUMNS = 100


def describe_plan(setup: RunSetup, out: Path) -> list[str]:
    """The plan of a run, at most PLAN_LINES lines of at most PLAN_COLUMNS columns."""
    config, model, run = setup.config, setup.config.model, setup.config.run
    corpus, tuned = setup.corpus, setup.config.finetune
    held = f", {setup.validation.n_held_out:,} held out" if setup.validation.n_held_out else ""
    text = (
        f": {count(corpus.n_documents, 'document')}{held}, {count(corpus.n_tokens, 'token')} "
        f"({setup.tokenizer.kind}, vocabulary {model.vocab:,})"
    )
    expected, most = setup.choice.seconds_per_step * run.steps, config.max_seconds
    rows = f"{run.steps:,} of"
    if most and expected > most:
        rows, expected = f"as many as the time allows, some {most / setup.choice.seconds_per_step:,.0f} of", most
    row = "context" if config.data.packing == "joined" else "document"
    lines = [
        _end_of(setup.documents.source, text, "data    "),
        f"model   {model.family}, {n_params(model):,} parameters: {count(model.n_layer, 'layer')}, "
        f"{model.n_embd} wide, {count(model.n_head, 'head')}, context {model.block_size}",
        f"engine  {setup.choice.name} in {setup.choice.dtype}: {setup.choice.why}",
        f"steps   {rows} {count(setup.rows_per_step, row)}, {'about ' * (expected >= 1)}{duration(expected)}",
        _end_of(str(out), "", "folder  "),
    ]
    if tuned.base:
        trained = f"adapters of rank {tuned.lora_rank}" if tuned.lora_rank else "all weights"
        replayed = f", {tuned.replay:.0%} of the rows replayed" if tuned.replay else ""
        lines.insert(2, _end_of(tuned.base, f": {trained}{replayed}", "base    "))
    notes = [note.removeprefix(f"{setup.documents.source}: ") for note in setup.documents.notes]
    return [_beginning_of(line) for line in [*_packed(notes, PLAN_LINES - len(lines)), *lines]]


def _packed(notes: list[str], most: int) -> list[str]:
    """Notes on at most `most` lines, several on one where they fit; the last line counts those that do not."""
    lines: list[list[str]] = []
    for note in notes:
        if lines and len("note    " + "; ".join([*lines[-1], note])) <= PLAN_COLUMNS:
            lines[-1].append(note)
        else:
            lines.append([note])
    if hidden := sum(map(len, lines[most - 1 :])) if len(lines) > most else 0:
        lines[most - 1 :] = [[f"{hidden} more about the data: --verbose prints them"]]
    return ["note    " + "; ".join(line) for line in lines]


def _beginning_of(line: str) -> str:
    return line if len(line) <= PLAN_COLUMNS else line[: PLAN_COLUMNS - 1] + "…"


def _end_of(path: str, rest: str, label: str) -> str:
    """A line with a path, of which the end is kept where the line is too long."""
    space = max(20, PLAN_COLUMNS - len(label) - len(rest))
    return label + (path if len(path) <= space else "…" + path[1 - space :]) + rest


def describe_all(setup: RunSetup, out: Path) -> list[str]:
    """Every note, the reason for the engine and the whole configuration, a line per section, none of them cut."""
    lines = [f"note    {note}" for note in setup.documents.notes]
    lines += [f"data    {setup.documents.source}", f"folder  {out}", f"engine  {setup.choice.why}"]
    for section, keys in setup.config.to_dict().items():
        if isinstance(keys, dict):
            lines.append(f"[{section}] " + " ".join(f"{key}={value}" for key, value in keys.items()))
    return lines


class TrainingProgress(Callbacks):
    """The report of a run on stderr: lines, on a terminal above a live bar, for which rich takes over stderr."""

    def __init__(
        self,
        out: Path,
        verbose: bool = False,
        begun: Callable[[], None] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.out, self.verbose, self.begun = out, verbose, begun  # `begun` is called after each block of steps
        self.tracker = tracker
        self.bar: Any = None
        self.began = self.reported = time.monotonic()
        self.at_start = 0
        self.tokens = 0
        self.steps = 0
        self.compiled = False
        self.timed: tuple[float, float] | None = None  # progress and seconds left of a run that ends with its time

    def reading(self, message: str, seconds: float | None) -> None:
        now = time.monotonic()
        if now - self.reported > 2:
            say(message)
            self.reported = now

    def plan(self, setup: RunSetup) -> None:
        for line in [*describe_plan(setup, self.out), *(describe_all(setup, self.out) if self.verbose else [])]:
            say(line)
        self.steps = setup.config.run.steps
        self.began = self.reported = time.monotonic()
        if sys.stderr.isatty():
            self.bar = self._bar()

    def _bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=False,
        )
        bar.add_task("train", total=self.steps, loss="-", rate="-", left="")
        bar.start()
        return bar

    def compiling(self, name: str, seconds: float | None) -> None:
        if seconds is not None:
            say(f"compiled {name} in {seconds:.1f} s")
        elif not self.compiled:
            say(name)
            self.compiled = True
        self.began = self.reported = time.monotonic()  # it is no part of the rate

    def resumed(self, path: Path, step: int) -> None:
        say(f"resumed {path} at step {step:,}")
        if self.tracker:
            self.tracker.resumed(step)
        self.at_start = step

    def paced(self, progress: float, seconds: float) -> None:
        self.timed = progress, seconds

    def progress(self, step: int, loss: float, tokens: int) -> None:
        self.tokens += tokens
        if self.begun:
            self.begun()
        if self.tracker:
            self.tracker.follow()
        now = time.monotonic()
        seconds = max(now - self.began, 1e-9)
        rate = f"{(step - self.at_start) / seconds:,.0f} steps/s  {self.tokens / seconds:,.0f} tokens/s"
        steps, left = self.steps, (self.steps - step) * seconds / max(1, step - self.at_start)
        if self.timed:
            steps, left = max(step, round(step / max(self.timed[0], 1e-6))), self.timed[1]
        remaining = f"{duration(left)} left" if step < steps else ""
        if self.bar:
            shown = {"loss": f"{loss:.4f}", "rate": rate, "left": remaining}
            self.bar.update(self.bar.task_ids[0], completed=step, total=steps, **shown)
        elif now - self.reported > 5 or step == steps:
            about = "about " * bool(self.timed and step < steps)
            say("  ".join(filter(None, (f"step {step:,} / {about}{steps:,}", f"loss {loss:.4f}", rate, remaining))))
            self.reported = now

    def evaluated(self, step: int, loss: float, bits_per_byte: float) -> None:
        say(f"step {step:,}  held-out loss {show_loss(loss, bits_per_byte)}")

    def sample(self, step: int, text: str) -> None:
        say(f"step {step:,}  sample: {text}", lines=True)

    def saved(self, path: Path) -> None:
        say(f"saved   {path}")

    def uses_best(self, used: Selection) -> None:
        say(f"using   {used}")

    def stopped_early(self, step: int, best: dict[str, Any]) -> None:
        stays = show_loss(best["val_loss"], best["bits_per_byte"])
        say(f"stopped at step {step:,}: the best held-out loss stays {stays} of step {best['step']:,}")

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()
        if self.tracker:
            self.tracker.close()
