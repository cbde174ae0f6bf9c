"""microgpt finetune"""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microgpt.commands.flags import Flags, OptimFlags, RunFlags, given
from microgpt.commands.train import run_and_tell
from microgpt.errors import UsageError
from microgpt.runs.folder import new_folder


def finetune(
    run: Path,
    *,
    data: str,
    out: Path | None = None,
    score: str | None = None,
    lora_rank: int = 0,
    lora_alpha: float = 0.0,
    replay: float = 0.0,
    val_fraction: float | None = None,
    max_time: str | None = None,
    verbose: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    optim: Annotated[OptimFlags, Flags] = OptimFlags(),  # type: ignore[valid-type]
    settings: Annotated[RunFlags, Flags] = RunFlags(),  # type: ignore[valid-type]
) -> None:
    """Continue from a model on new text or conversations, as a run of its own. The model that it begins with stays
    as it is.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    data
        The new text, or conversations (JSONL, one a line).
    out
        The new run's folder (default: runs/NAME-tuned, numbered if it is taken).
    score
        Conversations: count the loss on the answers (assistant, the default) or on every turn (all).
    lora_rank
        Train adapters of this rank and leave the model's own weights as they are; 0 trains all weights.
    lora_alpha
        Adapters count alpha / rank (default: 2 rank).
    replay
        The share of rows (0 to 1) that is old training data, so that less of it is forgotten.
    val_fraction
        The share of the new data that is held out (default: 0.1 with --eval-every, else 0).
    max_time
        Save and end in time: seconds, or 90s, 30m, 1h30m.
    verbose
        Also print the whole configuration, which run.toml in the run's folder holds.
    json
        Print the result as one JSON object.
    """
    from microgpt.training.resume import finetuned

    if lora_rank < 0:
        raise UsageError(f"--lora-rank: must be 0 (off) or more, got {lora_rank}")
    optional = {"score": score, "val_fraction": val_fraction}
    flags = {
        **given(optim=optim, run=settings),
        "data": {key: value for key, value in optional.items() if value is not None},
        "finetune": {"lora_rank": lora_rank, "lora_alpha": lora_alpha, "replay": replay},
    }
    config = finetuned(run, data, flags)
    out = out or new_folder(config.name)
    result = run_and_tell(config, out, max_time=max_time, verbose=verbose, as_json=json)
    if json:
        print(jsonlib.dumps(result))
