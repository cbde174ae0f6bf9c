"""Several short runs in threads of this process: experiments.batch without the start of a process for each.

For engines that compute outside Python's global interpreter lock, and models that keep one core busy. Each run has the
folder, settings, steps and bits of a run by itself: it may be begun here and go on alone, or the other way round.
"""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from microgpt.config import Config
from microgpt.engines.ladder import LADDER, choose
from microgpt.errors import MicrogptError, Stopped
from microgpt.experiments.batch import PAUSE, SMALL, Batch
from microgpt.experiments.pool import cores
from microgpt.model import n_params
from microgpt.runs.folder import RunFolder
from microgpt.signals import StopRequest
from microgpt.training.resume import resumed
from microgpt.training.train import train

LETTERS = 64  # tokens of a vocabulary that is not known yet
MOST_SECONDS = 4.0  # of training, as estimated; in longer runs the lock costs more than the start of a process


def fits(config: Config) -> bool:
    """Whether runs like this are best trained in threads: short ones, of an engine that several threads can use."""
    model, run = config.model, config.run
    model = model if model.vocab_size else model.model_copy(update={"vocab_size": LETTERS})
    tokens = float(run.batch_size * model.block_size)
    asked: dict[str, Any] = {"name": run.engine, "dtype": run.dtype, "device": run.device, "tokens_per_step": tokens}
    try:
        choice = choose(model, config.optim, **asked)
    except MicrogptError:
        return False  # the runs will say why
    is_short = not run.epochs and run.steps * choice.seconds_per_step < MOST_SECONDS
    keeps_one = run.threads == 1 or (not run.threads and n_params(model) < SMALL)
    return LADDER[choice.name].unlocked and is_short and keeps_one


class ThreadBatch(Batch):
    """A Batch whose runs are threads, as many at a time as there are cores."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.training: set[int] = set()

    def at_work(self) -> list[int]:
        return sorted(self.training)

    def train_all(self, waiting: list[int], stop: StopRequest) -> None:
        with ThreadPoolExecutor(self.at_once(len(waiting))) as threads:
            jobs: list[Future[None]] = []
            try:
                for lane, number in enumerate(waiting):
                    jobs.append(threads.submit(self._train, number, lane, stop))
                    if not self.makes_way(number, jobs[-1]):
                        break
                while not all(job.done() for job in jobs):
                    self._look(jobs)
            except BaseException:  # lets the runs save
                stop.number = stop.number or signal.SIGTERM
                raise
        for job in jobs:
            job.result()

    def at_once(self, waiting: int) -> int:
        """How many of the runs that are waiting are trained at a time, 1 at least."""
        return max(1, min(waiting, len(cores())))

    def makes_way(self, number: int, job: Future[None]) -> bool:
        """Wait until a run has measured and compiled what others then find. False if they could not begin either."""
        while not self.begun(number) and not job.done():
            self._look([job])
        return self.begun(number)

    def begun(self, number: int) -> bool:
        """Whether a run has written its settings."""
        return RunFolder(self.pool.place(number)).config_file.exists()

    def _look(self, jobs: list[Future[None]]) -> None:
        wait(jobs, PAUSE)
        self.show_progress()

    def options(self, lane: int) -> dict[str, Any]:
        """Further arguments of `train`."""
        return {"verify": "--verify" in self.pool.flags, "tune": "--no-tune" not in self.pool.flags}

    def _train(self, number: int, lane: int, stop: StopRequest) -> None:
        name, out = self.names[number], self.pool.place(number)
        if self.pool.is_at_work(number):
            self.say(f"{name}: still at work, of an earlier command; it is awaited")
        while self.pool.is_at_work(number) and stop.number is None:
            time.sleep(PAUSE)
        if stop.number is not None or self.is_finished(number):
            return
        is_begun = self.begun(number)
        self.training.add(number)
        self.say(f"{name}: {'resumed' if is_begun else 'started'}")
        try:
            config = resumed(out, {}) if is_begun else self.configs[name]
            train(config, out, resume=is_begun, stop=stop, **self.options(lane))
            self.say(f"{name}: done")
        except Stopped:
            pass  # `stop` has the signal
        except MicrogptError as error:
            self.failed[name] = str(error), error.status
            self.say(f"{name}: failed: {error}")
        finally:
            self.training.discard(number)
