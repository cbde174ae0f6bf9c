"""The workers of a sweep: trials as processes of `microgpt train`, each with cores, a thread count and a device.

experiments.batch has the same for runs with names.

A trial at work holds the lock of its log file, which its process inherits as stderr: the lock lives as long as the
process, also when the sweep was killed. So a sweep that is started again sees which of its trials are still at work,
without a moment in which it cannot tell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microgpt import files
from microgpt.errors import MachineError
from microgpt.runs.folder import RunFolder, is_locked

TRAIN = (sys.executable, "-m", "microgpt", "train")
TAIL = 4096  # bytes of a log that hold its last line


@dataclass
class TrialProcess:
    """A trial at work."""

    number: int
    process: subprocess.Popen[bytes]
    pruned: bool = False  # whether it was told to end


class Pool:
    """As many workers as asked for; `folder` holds the trials."""

    def __init__(self, folder: Path, workers: int, devices: list[str], flags: Sequence[str] = ()) -> None:
        self.folder, self.devices, self.flags = folder, devices, flags  # the flags of each process
        self.jobs: list[TrialProcess | None] = [None] * workers
        self._cores = cores()

    def place(self, number: int, ending: str = "") -> Path:
        """The run folder of a trial, or a file beside it."""
        return self.folder / f"{number:04d}{ending}"

    def running(self) -> list[TrialProcess]:
        """The trials that this process started and that have not been collected."""
        return [job for job in self.jobs if job]

    def is_at_work(self, number: int) -> bool:
        """Whether a process trains a trial, of this sweep, an earlier one, or of a person who resumed the run."""
        try:
            with files.open_plain(self.place(number, ".log")) as log:
                return is_locked(log) or RunFolder(self.place(number)).is_running()
        except OSError:
            return RunFolder(self.place(number)).is_running()

    def start(self, number: int) -> bool:
        """Begin or resume a trial on a worker that is free; False where it is at work. Raises OSError."""
        import fcntl

        slot = self.jobs.index(None)
        out = self.place(number)
        with files.log(self.place(number, ".log"), append=True) as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if RunFolder(out).is_running():
                return False
            begun = RunFolder(out).config_file.exists()  # nobody begins it from here on
            words = ["--resume"] if begun else ["--config", str(self.place(number, ".toml"))]
            with files.log(self.place(number, ".json")) as result:
                process = self._spawn([*TRAIN, *words, *self.flags, "--out", str(out), "--json"], slot, result, log)
        self.jobs[slot] = TrialProcess(number, process)
        return True

    def _spawn(self, words: list[str], slot: int, result: int, log: int) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        try:
            if before:
                os.sched_setaffinity(0, self.cores_of(slot))  # of this thread; the process inherits it
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is the sweep's, which passes it on once
            )
        finally:
            if before:
                os.sched_setaffinity(0, before)

    def cores_of(self, slot: int) -> list[int]:
        """The cores of a worker: its share, or one of them where there are more workers than cores."""
        return self._cores[slot :: len(self.jobs)] or [self._cores[slot % len(self._cores)]]

    def collect(self) -> list[TrialProcess]:
        """The jobs whose process has ended; their workers are free again."""
        ended = [job for job in self.running() if job.process.poll() is not None]
        self.jobs = [None if job in ended else job for job in self.jobs]
        return ended

    def last_line(self, number: int) -> str:
        """The last line that a trial said: the reason, if it failed."""
        try:
            with files.open_plain(self.place(number, ".log")) as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return next((line for line in reversed(lines) if line.strip() and not line.startswith("resume ")), "")

    def halt(self) -> None:
        """Let every trial save and end."""
        for job in self.running():
            job.process.send_signal(signal.SIGTERM)
        for job in self.running():
            job.process.wait()


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def require_locks() -> None:
    """Raise MachineError where trials cannot hold locks for each other."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise MachineError("several runs at once need the file locks of Linux or macOS") from None
