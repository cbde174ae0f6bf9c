"""The configuration and the checkpoint of a run that is resumed, extended or fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microgpt.config import SCHEDULE, Config, Phase, merge
from microgpt.errors import CheckpointError, DataError, UsageError
from microgpt.model import Tensors
from microgpt.optim import rate_of_run
from microgpt.progress import ProgressCallback
from microgpt.runs import checkpoint
from microgpt.runs.checkpoint import Checkpoint, TrainerState
from microgpt.runs.folder import RunFolder
from microgpt.training.prepare import RunSetup, prepare

# Keys that may change when a run continues: its length, and what it reports and keeps. The place of the data may
# change too, since its content is compared.
FREE = {
    "data": {"dataset", "path", "val_path"},
    "run": {"steps", "checkpoint_every", "keep", "eval_every", "patience", "sample_every", "samples", "temperature"},
}

Flags = Mapping[str, Mapping[str, Any]]


def resumed(out: Path, flags: Flags, extend: int | None = None) -> Config:
    """The configuration with which the run in `out` continues: its own, under the flags that may change it.

    `run.steps` is a new total. `extend` adds steps to the end of a finished run: the learning rate stays where it
    was, unless flags of its schedule are given, which then begins anew at that step; after one that fell to 0 a rate
    must be given. Raises CheckpointError for a flag that contradicts what the checkpoint fixes, UsageError for a total
    that is passed already.
    """
    saved = RunFolder(out).config()
    steps = checkpoint.list_steps(out / "checkpoints")
    step = int(steps[-1].name.removeprefix("step-")) if steps else 0
    if saved.max_seconds and steps:  # its pace, and its total once it has ended, are in its checkpoints
        newest = checkpoint.read(steps[-1]).config
        kept = {"pace": newest.pace, "phases": newest.phases, "max_seconds": newest.max_seconds}
        run = saved.run.model_copy(update={"steps": newest.run.steps})
        saved = saved.model_copy(update={**kept, "run": run})
    for section, given in flags.items():
        for key, value in given.items():
            free = key in FREE.get(section, ()) or (extend is not None and section == "optim" and key in SCHEDULE)
            fixed = getattr(getattr(saved, section), key)
            if not free and value != fixed:
                raise other_run(out, f"{section}.{key}", f" ({fixed!r} then, {value!r} now)")
    config = Config.from_dict(merge(saved.to_dict(), flags), "flags")
    if extend is not None:
        return _extended(with_past(config, saved, step), saved, step, extend, flags)
    if config.run.steps < step:
        raise UsageError(f"--steps {config.run.steps}: the run in {out} is at step {step} already; name a larger total")
    return config if config.run.steps == saved.run.steps else with_past(config, saved, step)


def with_past(config: Config, saved: Config, step: int) -> Config:
    """The same, with the schedule that the steps before `step` had, so that run.toml still describes the whole run."""
    config = config.model_copy(update={"pace": (), "max_seconds": 0.0})
    if step <= (saved.phases[-1].end_step if saved.phases else 0):
        return config  # no step yet with the schedule that is now replaced
    phase = Phase(
        end_step=step,
        steps=saved.run.steps,
        schedule_from=saved.schedule_from,
        optim=saved.optim,
        pace=saved.pace,
    )
    return config.model_copy(update={"phases": (*saved.phases, phase)})


def other_run(path: Path, what: str, change: str = "") -> CheckpointError:
    """The error for a run that would continue with another `what` than it was trained with."""
    return CheckpointError(
        f"{path}: {what} is not what this checkpoint was trained with{change}, so the result would be another run; "
        f"restore it, or start a new run with another --out",
        "E_OTHER_RUN",
    )


def _extended(config: Config, saved: Config, step: int, extend: int, flags: Flags) -> Config:
    if extend < 1 or "steps" in flags.get("run", {}):
        raise UsageError("--extend adds steps to the total, 1 or more; give it without --steps")
    if step < saved.run.steps:
        raise UsageError(
            f"--extend {extend}: the run is at step {step} of {saved.run.steps}; finish it with --resume first, "
            f"or name a new total with --steps"
        )
    rate, past = rate_of_run(saved, saved.run.steps - 1), saved.optim
    if past.schedule != "constant" and not past.min_learning_rate and "learning_rate" not in flags.get("optim", {}):
        raise UsageError(
            f"--extend {extend}: the {past.schedule} schedule ended at a learning rate of 0 (it began at "
            f"{past.learning_rate:g}); name the rate to go on with, --learning-rate"
        )
    schedule = {"learning_rate": rate, "schedule": "constant", "warmup_steps": 0, "min_learning_rate": 0.0}
    return Config.from_dict(
        merge(
            config.to_dict(),
            {"optim": {**schedule, **flags.get("optim", {})}, "run": {"steps": saved.run.steps + extend}},
            {"schedule_from": saved.run.steps},
        ),
        "flags",
    )


def finetuned(base: Path, data: str, flags: Flags, which: str | int | None = None) -> tuple[Config, Checkpoint]:
    """The configuration of a run that continues from a model on a new file: the model's architecture and
    tokenizer, a schedule of its own (linear, from 0.3 times the base's rate, with adapters from its whole rate).

    `flags` may set keys of the sections optim, run, data and finetune; `which` checkpoint of a run is as in
    runs.checkpoint.read. Also returns the base. Raises UsageError or CheckpointError.
    """
    saved = checkpoint.read(base, which)
    old, chosen = saved.config, saved.selection
    named = which is not None or (chosen and not chosen.is_last)
    tuned = {"base": str(saved.path if named else base), **flags.get("finetune", {})}
    if tuned.get("replay") and not (old.data.path or old.data.dataset):
        raise UsageError(f"--replay: {base} does not say what it was trained on, so nothing of it can be replayed")
    if tuned.get("lora_rank", 0) > old.model.n_embd:
        raise UsageError(
            f"--lora-rank: must be at most the model's width, {old.model.n_embd}, got {tuned['lora_rank']}"
        )
    factor = 1.0 if tuned.get("lora_rank") else 0.3
    schedule = {"learning_rate": old.optim.learning_rate * factor, "schedule": "linear", "warmup_steps": 0}
    fresh = {"tokenizer": old.data.tokenizer, "trailing_bos": old.data.trailing_bos, "score": old.data.score}
    run = {"steps": 300, "checkpoint_every": 0, "eval_every": 0, "patience": 0, "sample_every": 0}
    past = ("data", "finetune", "schedule_from", "phases", "replay_data", "plan")
    whole = {key: value for key, value in old.to_dict().items() if key not in past}
    layers: list[Mapping[str, Any]] = [
        whole,
        {"name": f"{old.name}-tuned", "optim": {**schedule, "min_learning_rate": 0.0}, "run": run},
        {"data": {**fresh, "path": data}, "finetune": tuned},
        {section: keys for section, keys in flags.items() if section != "finetune"},
    ]
    if tuned.get("replay"):
        layers.append({"replay_data": old.data.model_dump(exclude_none=True)})
    return Config.from_dict(merge(*layers), "flags"), saved


@dataclass(frozen=True)
class SavedRun:
    """The newest checkpoint of a run, read whole."""

    checkpoint: Checkpoint
    state: TrainerState
    tensors: Tensors


def read_newest(folder: RunFolder) -> SavedRun | None:
    """The newest checkpoint of a run; None where the run ended before its first one.

    Raises CheckpointError that names the one before where it is damaged.
    """
    steps = checkpoint.list_steps(folder.checkpoints)
    if not steps:
        return None
    try:
        newest = checkpoint.read(steps[-1])
        return SavedRun(newest, newest.trainer(), newest.tensors())
    except CheckpointError as error:
        older = f"; remove {steps[-1]} to continue from {steps[-2].name}" if steps[1:] else ""
        raise CheckpointError(f"{error}{older}", error.code) from None


def prepare_resumed(config: Config, saved: Checkpoint, progress: ProgressCallback, **options: Any) -> RunSetup:
    """`prepare` for a run that continues. Raises CheckpointError where it would not be the run of the checkpoint."""
    try:
        setup = prepare(config, progress, saved, **options)
    except DataError as error:
        if error.code != "E_UNKNOWN_TOKEN":
            raise
        raise other_run(saved.path, "data", f" ({error})") from None
    anew = setup.config.schedule_from != saved.config.schedule_from
    ours, theirs = identity(setup.config, anew), identity(saved.config, anew)
    ours |= {"data": setup.training.fingerprint, "held-out data": setup.validation.fingerprint}
    theirs |= {"data": saved.state["data"].get("sha256"), "held-out data": saved.state["data"].get("held_out_sha256")}
    ours["tokenizer"], theirs["tokenizer"] = setup.tokenizer.to_json(), saved.tokenizer.to_json()
    for what in sorted(ours.keys() | theirs.keys(), key=lambda name: ("." in name, name)):  # data first
        then, now = theirs.get(what), ours.get(what)
        if then != now:
            raise other_run(saved.path, what, f" ({then!r} then, {now!r} now)" if "." in what else "")
    return setup


def identity(config: Config, anew: bool) -> dict[str, Any]:
    """The values that must not change when a run continues, by configuration key.

    The total of steps may change: a new one stretches the schedule. Where the schedule begins `anew`, its keys may too.
    """
    sections = config.to_dict()
    run = ["seed", "batch_size", "grad_accum", "engine", "dtype", "device", "threads"]
    optim = {key: value for key, value in sections["optim"].items() if not (anew and key in SCHEDULE)}
    return {
        **{f"model.{key}": value for key, value in sections["model"].items()},
        **{f"optim.{key}": value for key, value in optim.items()},
        **{f"finetune.{key}": value for key, value in sections["finetune"].items()},
        "data.val_fraction": config.data.val_fraction,
        **{f"run.{key}": sections["run"][key] for key in run},
    }
