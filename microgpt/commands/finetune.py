"""microgpt finetune"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from microgpt.commands import ProcessesFlag, ShardFlag, Switch
from microgpt.commands.flags import Flags, TuningFlags, given
from microgpt.commands.launch import is_led
from microgpt.commands.selection import CheckpointFlag, checkpoint_json, say_checkpoint
from microgpt.commands.train import run_and_report, seconds
from microgpt.errors import UsageError
from microgpt.runs.folder import new_folder
from microgpt.terminal import output_json
from microgpt.training import trackers


def finetune(
    run: Path,
    *,
    data: str,
    out: Path | None = None,
    checkpoint: CheckpointFlag = None,
    score: str | None = None,
    lora_rank: int = 0,
    lora_alpha: float = 0.0,
    replay: float = 0.0,
    val_fraction: float | None = None,
    split_seed: int | None = None,
    max_time: str | None = None,
    processes: ProcessesFlag = None,
    shard: ShardFlag = None,
    log: trackers.Kind | None = None,
    verbose: Switch = False,
    json: Switch = False,
    settings: Annotated[TuningFlags, Flags] = TuningFlags(),  # type: ignore[valid-type]
) -> None:
    """Continue training a model on new text or conversations, as a new run. The base model stays unchanged.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    data
        New text, or conversations (JSONL, one per line).
    out
        Run folder (default: runs/NAME-tuned, numbered if taken).
    score
        Turns of a conversation that count in the loss: assistant (the default) or all.
    lora_rank
        Train LoRA adapters of this rank and keep the base's weights fixed; 0 trains all weights.
    lora_alpha
        Scale of the adapters, alpha / rank (default: 2 rank).
    replay
        Fraction of rows from the base's training data, so that less of it is forgotten.
    val_fraction
        Fraction of the new data to hold out (default: 0.1 with --eval-every, else 0).
    split_seed
        Seed of the documents that are held out (default: 42).
    max_time
        End within this time, and the learning-rate schedule with it: seconds, or 90s, 30m, 1h30m.
    processes
        Processes that train the model together on this machine, or auto for one per GPU; the result is the same.
    shard
        optimizer: each process keeps a part of Adam's moments, which saves memory.
    log
        Pass the metrics on: tensorboard (files in the run folder; needs the extra tensorboard) or trackio.
    verbose
        Print the whole configuration, which run.toml in the run folder holds as well.
    json
        Print the result as one JSON object.
    """
    from microgpt.training.resume import finetuned

    if is_led(processes):
        return
    if lora_rank < 0:
        raise UsageError(f"--lora-rank: must be 0 (off) or more, got {lora_rank}")
    optional = {"score": score, "val_fraction": val_fraction, "split_seed": split_seed}
    flags = {
        **given(settings),
        "data": {key: value for key, value in optional.items() if value is not None},
        "finetune": {"lora_rank": lora_rank, "lora_alpha": lora_alpha, "replay": replay},
    }
    config, base = finetuned(run, data, flags, checkpoint)
    say_checkpoint(base.selection)
    out = out or new_folder(config.name)
    limit = None if max_time is None else seconds(max_time)
    result = run_and_report(config, out, limit, verbose, json, log=log, shard=shard is not None)
    if json:
        output_json({**result, "base_checkpoint": checkpoint_json(base.selection)})
