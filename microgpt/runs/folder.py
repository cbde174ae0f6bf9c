"""The folder of a run: configuration, metrics, checkpoints, and the lock that one trainer holds."""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microgpt import files
from microgpt.config import Config
from microgpt.errors import CheckpointError, MachineError, UsageError
from microgpt.runs import checkpoint, sample_log
from microgpt.terminal import say

if TYPE_CHECKING:
    from filelock import FileLock


LONGEST_LINE = 4096  # bytes; a line of the metrics has about 120
TAIL = 2**13  # bytes at the end of the metrics, somewhat more than 50 steps


class RunFolder:
    """The files of one run: run.toml, metrics.jsonl, samples.jsonl, checkpoints/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "run.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.samples_file = path / "samples.jsonl"
        self.rejects_file = path / "rejects.jsonl"
        self.checkpoints = path / "checkpoints"
        self.lock_file = path / ".lock"
        self.owner_file = path / ".owner.json"
        self._held: BufferedReader | None = None  # the lock file, while this trainer holds the lock

    def config(self) -> Config:
        """The configuration that the run was started with. Raises CheckpointError if there is no run."""
        if not self.config_file.is_file():
            raise CheckpointError(f"{self.path}: no run to resume (run.toml is missing); start one without --resume")
        try:
            return Config.from_toml(self.config_file)
        except UsageError as error:
            raise CheckpointError(str(error)) from None

    def is_taken(self) -> bool:
        """Whether the folder holds a run, or somebody's files under the names of one."""
        ours = (self.config_file, self.metrics_file, self.samples_file)
        return any(file.exists() for file in ours) or bool(checkpoint.list_steps(self.checkpoints))

    def require(self, *, run: bool) -> None:
        """Raise CheckpointError where a run is needed and missing, UsageError where one is in the way."""
        if run:
            self.config()
        elif self.is_taken():
            raise UsageError(f"{self.path}: holds a run already; continue with --resume, or choose another --out")

    def require_free(self) -> None:
        """Raise MachineError if another trainer holds the lock. Writes nothing where no run was."""
        if self.lock_file.exists():
            with self.lock():
                pass

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock, which belongs to the process and ends with it; a second trainer is refused.

        Raises MachineError with who holds it. Makes the folder.
        """
        from filelock import FileLock

        with files.disk("be made", self.path):
            files.make_folders(self.checkpoints)
        lock = FileLock(self.lock_file)
        try:
            with files.disk("be locked", self.lock_file):
                self._acquire(lock)
        except NotImplementedError:
            say(f"microgpt: {self.path}: this file system has no locks; start no second trainer here")
        try:
            with files.disk("be written", self.path):
                files.sweep(self.path)
                files.sweep(self.checkpoints)
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                files.write_atomic(
                    self.owner_file, files.to_json({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
                )
            with suppress(OSError):
                self._held = files.open_plain(self.lock_file)
            yield
        finally:
            if self._held:
                self._held.close()
                self._held = None
            lock.release()

    def is_running(self) -> bool:
        """Whether a trainer of this or another process holds the lock. Writes nothing."""
        try:
            with files.open_plain(self.lock_file) as file:
                return is_locked(file)
        except OSError:
            return False

    def is_in_place(self) -> bool:
        """Whether the folder at `path` is still the one that was locked, neither moved, removed nor replaced.

        The lock file tells: it is held open, so that no other file gets its number.
        """
        try:
            return self._held is None or os.path.samestat(os.stat(self.lock_file), os.fstat(self._held.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _acquire(self, lock: FileLock) -> None:
        from filelock import Timeout

        try:
            lock.acquire(timeout=0.2)
        except Timeout:  # an OSError too: refused here, before it is taken for one of the disk
            holder = self._holder()
            raise MachineError(
                f"{self.path}: another trainer is at work in it (process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')} since {holder.get('since', '?')}); wait for it, or use another --out",
                "E_LOCKED",
            ) from None

    def _holder(self) -> dict[str, Any]:
        try:
            holder = files.read_json(self.owner_file)
        except CheckpointError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def begin(self, config: Config) -> None:
        """Write run.toml and empty metrics. Raises OSError."""
        self.write(config)
        files.write_atomic(self.metrics_file, b"")

    def write(self, config: Config) -> None:
        """Write run.toml. Raises OSError."""
        files.write_atomic(self.config_file, config.to_toml().encode())

    def go_on(self, config: Config, step: int, evaluated: int) -> None:
        """Rewind metrics and samples; write the configuration if it was changed for the rest. Raises OSError."""
        self.rewind(step, evaluated)
        sample_log.rewind(self.samples_file, step)
        if self.config() != config:
            self.write(config)

    def rewind(self, step: int, evaluated: int) -> None:
        """Remove the metrics of steps after `step` and evaluations after `evaluated`, which will be computed again.

        Raises OSError.
        """
        kept, damaged = bytearray(), bytearray()
        for line in self._metrics_lines():
            entry = entry_of(line)
            if entry is None:
                damaged += line if len(damaged) < files.LARGE else b""
            elif entry["step"] > (evaluated if "val_loss" in entry else step):
                break
            else:
                kept += line
        if b"\n" in damaged:  # no line that a crash cut short
            place = self.metrics_file.with_suffix(".damaged")
            files.append_bytes(place, bytes(damaged))
            say(f"microgpt: {self.metrics_file}: damaged lines; they are moved to {place.name}")
        if self.metrics_file.exists():
            files.write_atomic(self.metrics_file, bytes(kept))

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of the metrics: `step`, and `loss` or `val_loss`. Damaged ones are left out, and counted at the
        end on stderr; a last one that a crash cut short is no damage. Raises CheckpointError.
        """
        damaged = 0
        for line in self._metrics_lines():
            if entry := entry_of(line):
                yield entry
            else:
                damaged += line.endswith(b"\n")
        if damaged:
            say(f"microgpt: {self.metrics_file}: {damaged:,} damaged lines are left out")

    def last_metrics(self, size: int = TAIL) -> list[dict[str, Any]]:
        """The lines in the last `size` bytes of the metrics, as `metrics` has them. Raises OSError."""
        try:
            with files.open_plain(self.metrics_file) as file:
                begin = max(0, file.seek(0, os.SEEK_END) - size)
                file.seek(begin)
                lines = file.read(size).splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [entry for line in lines[begin > 0 :] if (entry := entry_of(line))]

    def _metrics_lines(self) -> Iterator[bytes]:
        """The lines of the metrics, one longer than LONGEST_LINE in pieces. Raises CheckpointError."""
        name = self.metrics_file
        with files.readable(name), suppress(FileNotFoundError), files.open_plain(name) as file:
            while line := file.readline(LONGEST_LINE):
                yield line


NUMBERS = ("loss", "val_loss", "bits_per_byte")  # of a line of the metrics, which is damaged if one is not finite


def number(value: Any) -> float | None:
    """A finite number, None for anything else that JSON can hold, such as an integer of 400 digits."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:
        return None


def entry_of(line: bytes) -> dict[str, Any] | None:
    """A line of the metrics; None for one that is damaged or cut short."""
    try:
        entry: Any = json.loads(line) if line.endswith(b"\n") else None
        numbers = [value for key, value in entry.items() if key in NUMBERS]
        good = type(entry["step"]) is int and all(map(math.isfinite, [entry["step"], *numbers]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return entry if good else None


def is_locked(file: BufferedReader) -> bool:
    """Whether another open file holds the lock. A trainer that starts meanwhile tries for longer than this takes."""
    try:
        import fcntl
    except ImportError:  # Windows, where a locked file cannot be read
        try:
            file.read(1)
        except PermissionError:
            return True
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def new_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, -3, … that holds no run yet."""
    return next(path for path in numbered(Path("runs") / name) if not RunFolder(path).is_taken())


def folder_beside(lost: Path) -> Path:
    """A folder for a run whose own is gone: NAME-moved, -moved-2, … beside it, which holds no run yet."""
    return next(path for path in numbered(lost.with_name(f"{lost.name}-moved")) if not path.exists())


def moved(lost: Path, new: Path, step: int) -> MachineError:
    """The error for a run whose folder is gone, after it was saved in a new one."""
    return MachineError(
        f"{lost}: is no longer the folder of this run, it was moved or removed; step {step} is saved in a new folder, "
        f"{new}, without the metrics up to here; go on with --resume --out {new}",
        "E_MOVED",
    )


def last_folder(name: str) -> Path:
    """The last of runs/NAME, runs/NAME-2, … that holds a run; runs/NAME if none does."""
    first = Path("runs") / name
    return [first, *itertools.takewhile(lambda path: RunFolder(path).is_taken(), numbered(first))][-1]


def numbered(path: Path) -> Iterator[Path]:
    """A path, then the same with -2, -3, … behind its name."""
    yield path
    yield from (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
