"""Summaries of runs, from run.toml, the end of the metrics and the newest checkpoint's state, never from weights."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from microgpt import files
from microgpt.config import Config
from microgpt.errors import MicrogptError
from microgpt.model import n_params
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder, number

RECENT = 50  # steps whose mean loss is told, as during training

RUNNING, STOPPED, FINISHED, DAMAGED = "running", "stopped", "finished", "damaged"


@dataclass(frozen=True)
class RunSummary:
    """A run as a list shows it."""

    path: Path
    state: str  # RUNNING, STOPPED, FINISHED or DAMAGED
    updated: float  # seconds since 1970
    config: Config | None = None  # None where it cannot be read
    parameters: int | None = None
    chat: bool = False  # whether its model answers messages
    step: int = 0  # optimizer steps taken, by the metrics
    loss: float | None = None  # mean of the last RECENT steps, in nats per token
    val_loss: float | None = None  # of the last evaluation
    bits_per_byte: float | None = None  # of the same
    lowest_loss: float | None = None  # of the evaluations that the end of the metrics and the checkpoint tell of
    lowest_bits: float | None = None  # of the same one
    seconds: float | None = None  # of training so far
    tokens: int | None = None  # trained on so far
    checkpoints: tuple[int, ...] = ()  # the steps of those that are kept
    best: int | None = None  # the step of the best one, where it is kept
    has_model: bool = False  # whether a model can be loaded
    data: dict[str, Any] = field(default_factory=dict)  # source, documents and fingerprints, by the checkpoint
    problem: str | None = None  # of a damaged run

    @property
    def steps(self) -> int | None:
        """Optimizer steps in total, as planned."""
        return self.config.run.steps if self.config else None


def is_run(path: Path) -> bool:
    """Whether a folder is a run, with or without a checkpoint, or a model folder."""
    return has_model(path) or RunFolder(path).config_file.is_file()


def has_model(path: Path) -> bool:
    """Whether a run or model folder has a model to load."""
    return (path / "config.json").is_file() or bool(checkpoint.list_steps(path / "checkpoints"))


def runs_in(folder: Path) -> dict[str, Path]:
    """The runs and model folders in a folder by their names, sorted; hidden ones are left out. Empty without a folder.

    So is a name that is no text in UTF-8, which JSON cannot hold.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError:
        return {}
    return {name: folder / name for name in names if _is_text(name) and is_run(folder / name)}


def is_folder_of_runs(path: Path) -> bool:
    """Whether a path is a folder that is no run itself, and holds runs, such that are about to begin, or nothing."""
    try:
        if not path.is_dir() or is_run(path):
            return False
        if runs_in(path):
            return True
        # One that was about to begin may have begun meanwhile.
        return all(entry.name[0] == "." or _is_empty(entry) or is_run(entry) for entry in path.iterdir())
    except OSError:
        return False


def _is_empty(path: Path) -> bool:
    """Whether a path is a folder that holds nothing, or what a trainer that begins there makes before run.toml."""
    checkpoints = RunFolder(path).checkpoints
    return path.is_dir() and all(
        entry.name[0] == "." or (entry == checkpoints and not any(entry.iterdir())) for entry in path.iterdir()
    )


def _is_text(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


def summary(path: Path) -> RunSummary:
    """The summary of a run or model folder. A run that a trainer changes meanwhile is told as of some moment of it."""
    folder = RunFolder(path)
    if not folder.config_file.exists() and (path / "config.json").is_file():
        return _model_summary(path)
    found = RunSummary(path, STOPPED, _updated(folder))
    try:
        config = folder.config()
        found = replace(found, config=config, parameters=n_params(config.model) if config.model.vocab_size else None)
        found = _with_metrics(_with_checkpoints(found, folder), folder)
    except (MicrogptError, OSError) as error:
        found = replace(found, state=DAMAGED, problem=str(error))
    if folder.is_running():
        return replace(found, state=RUNNING)
    return replace(found, state=FINISHED) if found.state == STOPPED and _is_finished(found) else found


def _model_summary(path: Path) -> RunSummary:
    updated = _time_of(path / "config.json")
    try:
        saved = checkpoint.read(path)
    except (MicrogptError, OSError) as error:
        return RunSummary(path, DAMAGED, updated, problem=str(error))
    state, parameters = saved.state, n_params(saved.config.model)
    return RunSummary(
        path,
        FINISHED,
        updated,
        saved.config,
        parameters,
        "chat_template.jinja" in saved.sizes,
        saved.step,
        state.get("loss"),
        state.get("val_loss"),
        state.get("bits_per_byte"),
        state.get("val_loss"),
        state.get("bits_per_byte"),
        has_model=True,
        data=state.get("data", {}),
    )


def _updated(folder: RunFolder) -> float:
    return max(map(_time_of, (folder.config_file, folder.metrics_file, folder.checkpoints)))


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it is not there, or not any longer
        return 0.0


def _with_checkpoints(found: RunSummary, folder: RunFolder) -> RunSummary:
    """Raises CheckpointError."""
    for left in reversed(range(checkpoint.TRIES)):
        kept = checkpoint.list_steps(folder.checkpoints)
        if not kept:
            return found
        try:
            state = files.read_json(kept[-1] / checkpoint.STATE)
            break
        except MicrogptError:  # removed since it was listed, or damaged
            if not left or kept[-1].exists():
                raise
    figures = checkpoint.figures(state, kept[-1] / checkpoint.STATE)
    steps = tuple(map(checkpoint.step_of, kept))
    best = figures.best.step if figures.best else None
    return replace(
        found,
        checkpoints=steps,
        best=best if best in steps else None,
        has_model=True,
        chat=(kept[-1] / "chat_template.jinja").is_file(),
        step=steps[-1],
        loss=figures.loss,
        val_loss=figures.val_loss,
        bits_per_byte=figures.bits_per_byte,
        lowest_loss=figures.best.val_loss if figures.best else figures.val_loss,
        lowest_bits=figures.best.bits_per_byte if figures.best else figures.bits_per_byte,
        data=figures.data,
    )


def _with_metrics(found: RunSummary, folder: RunFolder) -> RunSummary:
    """Raises OSError."""
    lines = folder.last_metrics()
    training = [line for line in lines if "loss" in line]
    if training:
        last = training[-1]
        found = replace(
            found,
            step=max(found.step, last["step"]),
            loss=fmean(line["loss"] for line in training[-RECENT:]),
            seconds=number(last.get("seconds")),
            tokens=int(number(last.get("tokens")) or 0),
        )
    if evaluated := [line for line in lines if "val_loss" in line]:
        last = evaluated[-1]
        found = replace(found, val_loss=last["val_loss"], bits_per_byte=number(last.get("bits_per_byte")))
        lowest = min(evaluated, key=lambda line: float(line["val_loss"]))
        if found.lowest_loss is None or lowest["val_loss"] < found.lowest_loss:
            bits = number(lowest.get("bits_per_byte"))
            found = replace(found, lowest_loss=lowest["val_loss"], lowest_bits=bits)
    return found


def _is_finished(found: RunSummary) -> bool:
    """Whether the run was saved at its last step, or at the one where its held-out loss had not improved for long."""
    if not found.config or not found.checkpoints:
        return False
    run, last = found.config.run, found.checkpoints[-1]
    stale = run.patience and found.best is not None and last - found.best >= run.patience * run.eval_every
    return last >= run.steps or bool(stale)


class Listing:
    """Summaries of many runs, each read again when its files have changed. For one thread at a time."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Any, RunSummary]] = {}

    def summary(self, path: Path) -> RunSummary:
        """The summary of a run as it is now."""
        folder = RunFolder(path)
        signature: list[int] = [folder.is_running()]
        for file in (folder.config_file, folder.metrics_file, folder.checkpoints, path / "config.json"):
            try:
                found = file.stat()
                signature += [found.st_mtime_ns, found.st_size, found.st_ino]
            except OSError:
                signature.append(False)
        known = self._known.get(path)
        if not known or known[0] != signature:
            self._known[path] = known = (signature, summary(path))
        return known[1]

    def summaries(self, paths: dict[str, Path]) -> dict[str, RunSummary]:
        """The summaries of runs by their names; others are forgotten."""
        found = {name: self.summary(path) for name, path in paths.items()}
        self._known = {path: self._known[path] for path in paths.values()}
        return found
