"""What each process of tests/training/test_processes.py does: every case, one after the other, in one launch.

The first argument is a folder that has the texts. The first process of a case trains into it, the others follow.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from microgpt.config import Config
from microgpt.engines.processes import environment, join
from microgpt.errors import MachineError, Stopped
from microgpt.training import follow
from microgpt.training.resume import finetuned, resumed
from microgpt.training.train import train

MODERN = {"family": "modern", "n_layer": 2, "tie_embeddings": True, "dropout": 0.2}
RUN = {"steps": 8, "batch_size": 3, "grad_accum": 3, "samples": 1, "engine": "pytorch", "dtype": "float64"}
RUN |= {"device": "cpu", "threads": 1, "eval_every": 3, "checkpoint_every": 4, "sample_every": 4}


def config(folder: Path, text: str = "names.txt", **run: Any) -> Config:
    """A small run with all that several processes must agree on."""
    optim = {"clip_norm": 0.5, "weight_decay": 0.1}
    data = {"path": str(folder / text), "val_fraction": 0.2}
    return Config.from_dict({"model": MODERN, "optim": optim, "data": data, "run": {**RUN, **run}})


def adapters(folder: Path) -> Config:
    """A run of adapters on a model that is there already."""
    flags = {"finetune": {"lora_rank": 2}, "run": {**RUN, "steps": 6}, "data": {"val_fraction": 0.2}}
    return finetuned(folder / "base", str(folder / "names.txt"), flags)[0]


class Ending(follow.Follower):
    """A process that a signal reaches in the middle of a run."""

    number = signal.SIGTERM

    def append(self, lines: str) -> None:
        super().append(lines)
        if self.step >= 3:
            os.kill(os.getpid(), self.number)


def main(folder: Path) -> None:
    rank, size = environment()

    def run(name: str, settings: Config | None, **options: Any) -> None:
        if rank:
            follow.follow()
        else:
            assert settings
            train(settings, folder / f"{name}-{size}", **options)

    leads = rank == 0
    run("plain", config(folder) if leads else None)
    run("shard", config(folder) if leads else None, shard=True)
    run("chats", config(folder, "chats.jsonl", steps=4) if leads else None)
    run("adapters", adapters(folder) if leads else None)
    run("timed", config(folder, steps=10**6, eval_every=0, checkpoint_every=0) if leads else None, max_time=0.5)
    run("parts", config(folder) if leads else None, stop_at=5)
    run("parts", resumed(folder / f"parts-{size}", {}) if leads else None, resume=True)
    run("half", config(folder) if leads else None, stop_at=5)

    follow.Follower = Ending  # type: ignore[misc]
    with suppress(Stopped):
        run("signal", config(folder, steps=10**6, eval_every=0) if leads else None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    join().share()
    Ending.number = signal.SIGKILL if rank == size - 1 else 0  # type: ignore[assignment]
    try:
        run("killed", config(folder, steps=10**6, checkpoint_every=2, eval_every=0) if leads else None)
    except MachineError as error:
        sys.exit(error.code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
