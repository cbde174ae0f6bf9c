"""A sweep: trials of one scenario whose settings Optuna proposes, trained by `microgpt train` processes.

Its folder holds sweep.toml, the study's journal, and under trials/ for each one its configuration (0007.toml), its run
(0007/), what it said (0007.log) and its result (0007.json). Whatever is killed, the same command goes on: a trial is
told to the study when its process has ended, so it is begun once and done once.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.errors import CheckpointError, MachineError, MicrogptError, NumericError, Stopped, UsageError
from microgpt.experiments.pool import Pool, TrialProcess, cores, require_locks
from microgpt.experiments.spec import SweepSpec, describe
from microgpt.experiments.study import BITS, COMPLETE, FAILED, PROBLEM, PRUNED, RUNNING, Study
from microgpt.runs.folder import RunFolder
from microgpt.runs.folder import number as real
from microgpt.signals import listen

PAUSE = 0.1  # seconds between two looks at the trials
TRIES = 2  # times that a trial is resumed after it was killed
ALIKE = 3  # trials that fail alike before any other has ended, so that the rest would too
FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
STATES = {COMPLETE: "done", PRUNED: "pruned", FAILED: "failed", RUNNING: "running"}
Say = Callable[[str], None]


class SweepFolder:
    """The folder of a sweep, which one sweep at a time is at work in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "sweep.toml"
        self.trials = path / "trials"
        self.journal = path / "study.journal"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock. Makes the folder. Raises MachineError."""
        from filelock import FileLock, Timeout

        with files.disk("be made", self.path):
            files.make_folders(self.trials)
        lock = FileLock(self.path / ".lock")
        with files.disk("be locked", self.path):
            try:
                lock.acquire(timeout=0.2)
            except Timeout:  # an OSError too
                raise MachineError(
                    f"{self.path}: another sweep is at work in it; wait for it, or use another --out", "E_LOCKED"
                ) from None
        try:
            with files.disk("be written", self.path):
                files.sweep(self.path)
                files.sweep(self.trials)
            yield
        finally:
            lock.release()

    def settle(self, spec: SweepSpec, storage: str, threads: int) -> tuple[str, int]:
        """The sweep's id among those that share its study, and the threads of its trials: written once.

        Raises UsageError where the folder holds another sweep; more trials may be asked for.
        """
        if any("\ud800" <= char <= "\udfff" for char in storage):
            raise UsageError(f"--storage {storage}: must be text, which {self.file.name} can hold; rename it")
        told: dict[str, Any] = {
            "id": f"{socket.gethostname()}-{secrets.token_hex(4)}",
            "storage": storage,
            "threads": threads,
        }
        if self.file.exists():
            found = files.read_toml(self.file)
            told = {key: found.get(key) for key in told}
            before = SweepSpec.of(found.get("sweep", {}), str(self.file))
            if before.fingerprint() != spec.fingerprint() or told["storage"] != storage:
                raise UsageError(f"{self.path}: holds another sweep; go on with its settings, or use another --out")
            if before == spec:
                return str(told["id"]), int(told["threads"])
        elif any(self.trials.iterdir()):
            raise CheckpointError(f"{self.file}: is missing, and there are trials; use another --out")
        import tomli_w

        content = {**told, "sweep": spec.model_dump(exclude_none=True)}
        with files.disk("be written", self.path):
            files.write_atomic(self.file, tomli_w.dumps(content).encode())
        return str(told["id"]), int(told["threads"])


class Sweep:
    """A sweep at work; `base` is the configuration layer of its scenario."""

    def __init__(
        self,
        folder: SweepFolder,
        spec: SweepSpec,
        base: Mapping[str, Any],
        study: Study,
        pool: Pool,
        threads: int,
        say: Say,
    ) -> None:
        self.folder, self.spec, self.base, self.study, self.pool = folder, spec, base, study, pool
        self.threads, self.say = threads, say
        self.tries: Counter[int] = Counter()
        self.outcomes: list[tuple[int, str]] = []  # exit status and reason of trials that have ended, without tries
        self.awaited: set[int] = set()  # trials that an earlier sweep's process is still at work on
        self.waits_for_others = False

    def run(self) -> None:
        """Train until every trial is done. Raises Stopped after a signal, MicrogptError where no trial can work."""
        with listen() as stop:
            try:
                while True:
                    self._collect(stopping=stop.number is not None)
                    if stop.number is not None:
                        break
                    self._report()
                    left = self._fill()
                    if not left and not self.pool.running():
                        return
                    time.sleep(PAUSE)
            finally:  # an error too lets the trials save
                if self.pool.running():
                    self.pool.halt()
                    self._collect(stopping=True)
        raise Stopped("stopped; the trials are saved, and the same command goes on", stop.number or signal.SIGTERM)

    def _fill(self) -> list[int]:
        """Give every free worker a trial: one of this sweep's that is not at work, else a new one.

        Returns this sweep's trials that are not done and not on a worker.
        """
        working = {job.number for job in self.pool.running()}
        if None not in self.pool.jobs:
            return []
        left = [number for number in self.study.mine() if number not in working]
        for number in list(left):
            if None in self.pool.jobs and self._start(number):
                left.remove(number)
        while None in self.pool.jobs and self.study.add():
            for number in self.study.mine():
                if number not in working | set(left) | {job.number for job in self.pool.running()}:
                    self._start(number)
        return left

    def _start(self, number: int) -> bool:
        """Begin a trial, or resume it; False where an earlier sweep's process is at work on it."""
        if self.pool.is_at_work(number):
            if number not in self.awaited:
                self.say(f"trial {number}: still at work, of an earlier sweep; it is awaited")
                self.awaited.add(number)
            return False
        params = self.study.params(number)
        settings = self.pool.place(number, ".toml")
        if not settings.exists():
            try:
                config = self.spec.config(self.base, params, self.threads)
            except UsageError as error:  # of this combination of values
                self._failed(number, error.status, str(error))
                return True
            files.write_atomic(settings, config.to_toml().encode())
        resumed = RunFolder(self.pool.place(number)).config_file.exists()
        if not self.pool.start(number):
            return False
        self.say(f"trial {number} {'resumed' if resumed else 'started'}: {describe(params)}")
        return True

    def _report(self) -> None:
        """End the trials that are worse than the others were at the same step."""
        if not self.spec.prune:
            return
        for job in self.pool.running():
            if not job.pruned and self.study.report(job.number, self._values(job.number)):
                job.pruned = True
                job.process.send_signal(signal.SIGTERM)

    def _values(self, number: int) -> dict[int, float]:
        """The objective of a trial by its steps."""
        found = {}
        with suppress(MicrogptError):
            for line in RunFolder(self.pool.place(number)).metrics():
                if isinstance(line.get(self.spec.objective), float):
                    found[line["step"]] = line[self.spec.objective]
        return found

    def _collect(self, stopping: bool) -> None:
        """Tell the study how trials ended. Raises MicrogptError where the others would end the same way."""
        for job in self.pool.collect():
            number, status = job.number, job.process.returncode
            if status == 0:
                self._done(number)
            elif job.pruned and status in (-signal.SIGTERM, 128 + signal.SIGTERM):
                self.study.tell(number, None, pruned=True)
                self.outcomes.append((0, ""))
                self.say(f"trial {number} pruned")
            elif not stopping:
                self._broken(job, status)

    def _done(self, number: int) -> None:
        values = self._values(number)
        if not values:
            self._failed(number, 2, f"it has no {self.spec.objective}: nothing is held out; set data.val_fraction")
            return
        if self.spec.prune:  # its last values are those that later trials are compared with
            self.study.report(number, values)
        best = min(values, key=lambda step: (values[step], step))
        line = next(
            line for line in RunFolder(self.pool.place(number)).metrics() if line["step"] == best and "val_loss" in line
        )
        self.study.tell(number, values[best], bits_per_byte=real(line.get("bits_per_byte")))
        self.outcomes.append((0, ""))
        done = sum(trial.state.is_finished() for trial in self.study.begun())
        self.say(f"trial {number} done: {self.spec.objective} {values[best]:.4f}; {done} of {self.spec.trials}")

    def _broken(self, job: TrialProcess, status: int) -> None:
        number, reason = job.number, self.pool.last_line(job.number).removeprefix("microgpt: ")
        killed = status < 0 or status in (128 + signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGINT)
        if killed and self.tries[number] < TRIES:
            self.tries[number] += 1
            self.say(f"trial {number} was ended by signal {-status if status < 0 else status - 128}; it is resumed")
        elif status == MachineError.status and any(full in reason for full in FULL):
            raise MachineError(f"trial {number}: {reason}", "E_DISK")
        elif status == MachineError.status and "another trainer is at work" in reason:
            self.awaited.add(number)
        else:
            self._failed(number, status, f"ended by signal {TRIES + 1} times" if killed else reason)

    def _failed(self, number: int, status: int, reason: str) -> None:
        self.study.tell(number, None, reason or f"exit status {status}")
        self.say(f"trial {number} failed: {reason or f'exit status {status}'}")
        self.outcomes.append((status, re.sub(r"\d+", "", reason)))
        first = self.outcomes[:ALIKE]
        alike = len(self.outcomes) == ALIKE and len({status for status, _ in first}) == 1 and len({*first}) == 1
        if alike and status not in (NumericError.status, 0):
            error = UsageError(f"the first {ALIKE} trials failed alike: {reason}; the sweep ends")
            error.status = status if status > 0 else 1
            raise error


def sweep(
    spec: SweepSpec,
    base: Mapping[str, Any],
    out: Path,
    *,
    workers: int,
    devices: list[str],
    storage: str | None,
    say: Say,
) -> tuple[Study, Pool]:
    """Run a sweep to its end, or go on with the one in `out`. Returns its study and its trials.

    Raises MicrogptError; Stopped after a signal, when every trial is saved.
    """
    require_locks()
    spec.config(base, {key: axis[0] if isinstance(axis, list) else axis.ends[0] for key, axis in spec.axes.items()}, 1)
    folder = SweepFolder(out)
    with folder.lock():
        owner, threads = folder.settle(spec, storage or "", max(1, len(cores()) // workers))
        study = Study(spec, storage or folder.journal, owner, f"{socket.gethostname()}:{out.resolve()}")
        pool = Pool(folder.trials, workers, devices)
        n_cores = len(pool.cores_of(0))
        say(
            f"sweep   {spec.name}: {spec.trials} trials ({spec.sampler}) for {spec.objective}, {workers} "
            f"worker{'s' * (workers > 1)} of {n_cores} core{'s' * (n_cores > 1)} and --threads {threads}, in {out}"
        )
        with files.disk("be written", out, "the same command goes on"):
            Sweep(folder, spec, base, study, pool, threads, say).run()
    return study, pool


def results(study: Study, pool: Pool) -> list[dict[str, Any]]:
    """The trials of a study, the best first, ready for JSON. `path` is the run folder, HOST:FOLDER of another sweep."""
    rows = []
    for trial in study.begun():
        attributes = trial.user_attrs
        mine = attributes.get("sweep") == study.owner
        path = str(pool.place(trial.number)) if mine else f"{attributes.get('place')}/trials/{trial.number:04d}"
        spent = (trial.datetime_complete - trial.datetime_start).total_seconds() if trial.datetime_complete else None
        rows.append(
            {
                "number": trial.number,
                "state": STATES.get(trial.state, "waiting"),
                "value": trial.value if trial.state == COMPLETE else None,
                "bits_per_byte": attributes.get(BITS),
                "params": dict(trial.params),
                "path": path,
                "seconds": spent,
                "problem": attributes.get(PROBLEM),
            }
        )
    return sorted(rows, key=lambda row: (row["value"] is None, row["value"] or 0.0, row["number"]))
