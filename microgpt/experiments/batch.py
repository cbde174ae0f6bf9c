"""Several runs side by side in one folder, with names: a model with several seeds, the sizes of a scaling law.

The folder holds for each run its configuration (seed42.toml), its run (seed42/), what it said (seed42.log) and its
result (seed42.json). A run is a process of `microgpt train` that sees the whole machine, so it chooses the engine, the
plan and the threads that it would have alone, and ends with the same bits. As many work at a time as the cores hold.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from microgpt import files
from microgpt.config import Config
from microgpt.errors import CheckpointError, MachineError, MicrogptError, Stopped, UsageError
from microgpt.experiments.pool import Pool, TrialProcess, cores, require_locks
from microgpt.model import n_params
from microgpt.older import upgraded
from microgpt.runs.folder import RunFolder
from microgpt.runs.listing import FINISHED, RunSummary, is_run, summary
from microgpt.signals import StopRequest, listen

PAUSE = 0.05  # seconds between two looks at the runs,
SHOW = 0.5  # and between two reports of their progress
SMALL = 100_000  # parameters below which a model keeps one core busy, whatever its engine;
SMALL_ON_GPU = 1_000_000  # below which it leaves room beside it on a GPU
Show = Callable[[list[RunSummary]], None]


class NamedRuns(Pool):
    """The processes of runs with names; each may use every core."""

    def __init__(self, folder: Path, names: Sequence[str], flags: Sequence[str]) -> None:
        super().__init__(folder, min(len(names), len(cores())), [], flags)
        self.names = names

    def place(self, number: int, ending: str = "") -> Path:
        """The run folder of a run, or a file beside it."""
        return self.folder / f"{self.names[number]}{ending}"

    def cores_of(self, slot: int) -> list[int]:
        """All cores: a run's plan counts those that it may use."""
        return cores()


class Batch:
    """Runs by their names, in one folder; `flags` are passed to `microgpt train`.

    `say` is called with a line about each run that starts or ends, `show` with those that are at work.
    """

    def __init__(
        self,
        folder: Path,
        configs: Mapping[str, Config],
        say: Callable[[str], None],
        show: Show,
        flags: Sequence[str] = (),
    ) -> None:
        self.folder, self.configs, self.say, self.show = folder, configs, say, show
        self.names = list(configs)
        self.pool = NamedRuns(folder, self.names, flags)
        self.failed: dict[str, tuple[str, int]] = {}  # reason and exit status
        self.threads = 0  # of the last run that recorded its settings; 0 before the first one has
        self.awaited: set[int] = set()
        self.shown = 0.0

    def settle(self) -> None:
        """Write the configurations. Raises UsageError where the folder holds other runs, OSError."""
        if is_run(self.folder):
            raise UsageError(f"{self.folder}: is a run; name a folder for several with another --out")
        with files.disk("be made", self.folder):
            files.make_folders(self.folder)
        for number, (name, config) in enumerate(self.configs.items()):
            file, out = self.pool.place(number, ".toml"), self.pool.place(number)
            if file.exists():
                if Config.from_dict(upgraded(files.read_toml(file)), str(file)) != config:
                    raise UsageError(f"{file}: other settings; go on with the same command, or use another --out")
            elif RunFolder(out).is_taken():
                raise CheckpointError(f"{out}: is there without {name}.toml, so it is another run; use another --out")
            else:
                with files.disk("be written", file):
                    files.write_atomic(file, config.to_toml().encode())

    def run(self) -> list[RunSummary]:
        """Train what is not trained yet. Returns the runs in their order.

        Raises Stopped after a signal, when all are saved; MicrogptError with the names of those that failed.
        """
        require_locks()
        self.settle()
        with listen() as stop:
            self.train_all([number for number in range(len(self.names)) if not self.is_finished(number)], stop)
        if stop.number is not None:
            raise Stopped("stopped; the runs are saved, and the same command goes on", stop.number or signal.SIGTERM)
        if self.failed:
            error = MachineError("; ".join(f"{name}: {reason}" for name, (reason, _) in self.failed.items()))
            error.status = next(iter(self.failed.values()))[1]
            raise error
        return [summary(self.pool.place(number)) for number in range(len(self.names))]

    def train_all(self, waiting: list[int], stop: StopRequest) -> None:
        """Train the runs of these numbers until they are finished, or have saved what they have after a signal."""
        try:
            while stop.number is None and (waiting or self.pool.running()):
                self._start(waiting)
                time.sleep(PAUSE)
                self._collect(waiting)
                self.show_progress()
        finally:  # an error too lets the runs save
            self.pool.halt()

    def at_work(self) -> list[int]:
        """The numbers of the runs that are being trained."""
        return [job.number for job in self.pool.running()]

    def is_finished(self, number: int) -> bool:
        """Whether a run is trained to its end."""
        place = self.pool.place(number)
        return is_run(place) and summary(place).state == FINISHED

    def _start(self, waiting: list[int]) -> None:
        """Begin or resume the runs that there is room for."""
        for number in list(waiting):
            if not self._has_room():
                return
            if self.pool.is_at_work(number):
                if number not in self.awaited:
                    self.say(f"{self.names[number]}: still at work, of an earlier command; it is awaited")
                    self.awaited.add(number)
            elif number in self.awaited and self.is_finished(number):
                waiting.remove(number)
            else:
                resumed = RunFolder(self.pool.place(number)).config_file.exists()
                if self.pool.start(number):
                    waiting.remove(number)
                    self.say(f"{self.names[number]}: {'resumed' if resumed else 'started'}")

    def _has_room(self) -> bool:
        """Whether there are cores for another run, with as many threads as the last one recorded.

        The first starts alone: it measures and compiles what the others then find in the cache.
        """
        running = self.pool.running()
        used = 0
        for job in running:
            found = self._recorded(job.number)
            self.threads = found or self.threads
            used += found or self.threads
        if not running or None not in self.pool.jobs:
            return not running
        return bool(self.threads) and used + self.threads <= len(cores())

    def _recorded(self, number: int) -> int:
        """The threads of a run, 0 before it has written its settings."""
        try:
            return threads_of(RunFolder(self.pool.place(number)).config())
        except (MicrogptError, OSError):
            return 0

    def _collect(self, waiting: list[int]) -> None:
        for job in self.pool.collect():
            name, status = self.names[job.number], job.process.returncode
            if status == 0:
                left = f", {len(waiting)} to start" if waiting else ""
                self.say(f"{name}: done{left}")
                continue
            self.failed[name] = self._reason(job), 128 - status if status < 0 else status
            self.say(f"{name}: failed: {self.failed[name][0]}")
            if not RunFolder(self.pool.place(job.number)).config_file.exists():
                waiting.clear()  # the others could not begin either

    def _reason(self, job: TrialProcess) -> str:
        status = job.process.returncode
        if status < 0:
            return f"ended by {signal.Signals(-status).name}; the same command goes on"
        return self.pool.last_line(job.number).removeprefix("microgpt: ") or f"exit status {status}"

    def show_progress(self) -> None:
        """Report the runs that are at work, if it is time to."""
        if (now := time.monotonic()) < self.shown + SHOW:
            return
        self.shown = now
        found = []
        for number in self.at_work():
            with suppress(MicrogptError, OSError):
                found.append(summary(self.pool.place(number)))
        self.show([each for each in found if each.config])


def threads_of(config: Config) -> int:
    """The cores that a run with these recorded settings keeps busy; all of them where its engine does not tell."""
    if config.run.threads:
        return config.run.threads
    small = config.plan.get("threaded", SMALL) if config.run.device == "cpu" else SMALL_ON_GPU
    return 1 if n_params(config.model) < small else config.plan.get("threads", len(cores()))
