"""Several runs in one process, whose models are trained as one on a GPU; else as experiments.batch, of the same folder.

Each run has a thread. Its folder, settings and steps are those of a run by itself, and its numbers are up to the order
of sums: it may be begun here and go on alone, or the other way round.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from microgpt.errors import MicrogptError, Stopped
from microgpt.experiments.batch import PAUSE, Batch
from microgpt.runs.folder import RunFolder
from microgpt.signals import StopRequest
from microgpt.training.resume import resumed
from microgpt.training.train import train


class LaneBatch(Batch):
    """A Batch, of the same further arguments, whose runs are trained in the lanes that `lanes(n)` makes."""

    def __init__(self, lanes: Callable[[int], Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lanes = lanes
        self.training: set[int] = set()

    def at_work(self) -> list[int]:
        return sorted(self.training)

    def train_all(self, waiting: list[int], stop: StopRequest) -> None:
        lanes = self.lanes(len(waiting))
        with ThreadPoolExecutor(max(1, len(waiting))) as threads:
            jobs = [threads.submit(self._train, number, lane, lanes, stop) for lane, number in enumerate(waiting)]
            try:
                while not all(job.done() for job in jobs):
                    time.sleep(PAUSE)
                    self.show_progress()
            except BaseException:  # lets the runs save
                stop.number = stop.number or signal.SIGTERM
                raise
        for job in jobs:
            job.result()

    def _train(self, number: int, lane: int, lanes: Any, stop: StopRequest) -> None:
        name, out = self.names[number], self.pool.place(number)
        is_begun = RunFolder(out).config_file.exists()
        options: dict[str, Any] = {"verify": "--verify" in self.pool.flags, "tune": "--no-tune" not in self.pool.flags}
        self.training.add(number)
        self.say(f"{name}: {'resumed' if is_begun else 'started'}")
        try:
            config = resumed(out, {}) if is_begun else self.configs[name]
            train(config, out, resume=is_begun, stop=stop, beside=partial(lanes.lane, lane), **options)
            self.say(f"{name}: done")
        except Stopped:
            pass  # `stop` has the signal
        except MicrogptError as error:
            self.failed[name] = str(error), error.status
            self.say(f"{name}: failed: {error}")
        finally:
            self.training.discard(number)
            lanes.leave(lane)
