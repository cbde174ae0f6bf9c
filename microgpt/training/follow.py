"""A process of a run that another one leads: it computes its share of every step, and writes and reports nothing."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from random import Random

from microgpt import files, tokenizers
from microgpt.config import Config
from microgpt.engines.processes import Processes, join
from microgpt.errors import DataError
from microgpt.json_text import dumps, loads
from microgpt.runs.checkpoint import TrainerState
from microgpt.runs.folder import RunFolder
from microgpt.signals import listen
from microgpt.training.prepare import RunSetup, prepare
from microgpt.training.report import Callbacks
from microgpt.training.trainer import Trainer


class Unwritten(RunFolder):
    """The folder of a run that this process leaves to the first one."""

    def begin(self, config: Config) -> None:
        pass

    def write(self, config: Config) -> None:
        pass


class Follower(Trainer):
    """A trainer without a disk: it makes every collective call of the first process's trainer, in the same order."""

    def append(self, lines: str) -> None:
        self.require_place()

    def sample(self) -> None:
        self.processes.share()

    def move(self) -> None:
        self.save()

    def save(self) -> None:
        if self.saved == self.step:
            return
        self.require_place()
        if self.processes.shard:
            self.engine.dump(self.state)
        self.processes.share()  # the first process has written it
        self.saved = self.step


def lead(
    processes: Processes, setup: RunSetup, out: Path, target: int, state: TrainerState | None, is_timed: bool
) -> None:
    """Give the other processes the run. Raises DataError where one of them reads another text."""
    order = {
        "config": setup.config.to_dict(),
        "tokenizer": setup.tokenizer.to_json().decode(),
        "shard": processes.shard,
        "out": str(out),
        "target": target,
        "state": state and state.model_dump(),
        "is_timed": is_timed,
    }
    processes.share(files.to_json(order))
    require_same_text(processes, setup)


def follow() -> None:
    """Train as the first process says, to the end of its run. Raises what that raises."""
    processes = join()
    order = loads(processes.share().decode())
    processes.shard = order["shard"]
    config = Config.from_dict(order["config"])
    tokenizer = tokenizers.read(order["tokenizer"].encode(), "the first process's tokenizer")
    setup = prepare(config, tokenizer=tokenizer, processes=processes.size)
    require_same_text(processes, setup)
    with listen(several=True) as stop:
        deadline = math.inf if order["is_timed"] else None
        trainer = Follower(setup, Unwritten(Path(order["out"])), Callbacks(), stop, deadline, processes)
        if order["state"]:
            trainer.take(TrainerState.model_validate(order["state"]), {})
        else:
            trainer.state = trainer.engine.load(processes.share_tensors({}))
            trainer.generator = Random().getstate()  # only the first process draws samples
        trainer.train(order["target"])


def require_same_text(processes: Processes, setup: RunSetup) -> None:
    """Raise DataError, in all processes, where one has read another text than the first."""
    ours = [setup.training.fingerprint, setup.validation.fingerprint, socket.gethostname(), setup.documents.source]
    read = [loads(text) for text in processes.gather(dumps(ours))]
    for rank, (*fingerprints, host, source) in enumerate(read):
        if fingerprints != read[0][:2]:
            raise DataError(
                f"process {rank} on {host} reads {source}, which is not the text that process 0 reads on {read[0][2]}, "
                f"{read[0][3]}; give all of them the same files",
                "E_OTHER_TEXT",
            )
