"""Trainings that the page starts, stops and resumes: each is `microgpt train` in a process of its own.

They go on when the service ends, as one that was started in a terminal would.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microgpt import files
from microgpt.errors import CheckpointError
from microgpt.runs.folder import RunFolder, numbered
from microgpt.serve.errors import ApiError
from microgpt.serve.limits import most

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TEXTS, LOGS = ".texts", ".trainings"  # folders beside the runs: texts that were given, what trainings said
LAST_BYTES = 4096  # of a log, in which its last line is looked for


@dataclass
class Training:
    """A process that this service began."""

    run: str
    process: subprocess.Popen[bytes]
    log: Path
    stopped: bool = False  # whether it was asked to end; a second signal would end it before it has saved

    @property
    def ended(self) -> int | None:
        """The exit status, None while it runs."""
        return self.process.poll()

    @property
    def said(self) -> str:
        """The last line that it said."""
        try:
            with files.open_plain(self.log) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
                end = file.read(LAST_BYTES)
        except OSError:
            return ""
        lines = [line for line in end.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""


def keep_text(text: str, folder: Path) -> Path:
    """A text as a file of a folder, named by its content. Raises OSError."""
    files.make_folders(folder)
    data = text.encode()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.txt"
    if not path.exists():
        files.write_atomic(path, data)
    return path


class Trainings:
    """The trainings of a folder of runs; without a folder, runs can be stopped and resumed alone. For threads."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._begun: dict[str, Training] = {}
        self._asked: set[tuple[Path, int, str]] = set()  # trainers of others: a second signal kills

    @property
    def texts(self) -> Path | None:
        """Where texts are kept that trainings were started with."""
        return self.folder / TEXTS if self.folder else None

    def all(self) -> list[Training]:
        """What this service began, the newest first."""
        return list(self._begun.values())[::-1]

    def start(self, name: str, words: Sequence[str]) -> str:
        """Train a new run with this name, numbered if it is taken: the name that it has. Raises ApiError."""
        assert self.folder
        if not NAME.fullmatch(name):
            raise ApiError(400, "name: expected up to 64 letters, digits, dots, dashes or underscores", param="name")
        with self._lock:
            taken = self._begun.keys()
            path = next(path for path in numbered(self.folder / name) if path.name not in taken and not path.exists())
            self._begin(path.name, path, ["train", *words, "--out", str(path)])
        return path.name

    def resume(self, run: str, path: Path) -> None:
        """Go on with a run that was stopped. Raises ApiError."""
        with self._lock:
            self._begin(run, path, ["train", "--resume", "--out", str(path)])

    def _begin(self, run: str, path: Path, words: list[str]) -> None:
        running = [training for training in self._begun.values() if training.ended is None]
        if len(running) >= most("trainings"):
            raise ApiError(409, f"{len(running)} trainings are running; stop one first")
        if any(training.run == run for training in running):
            raise ApiError(409, f"the run {run!r} is being trained already")
        logs = (self.folder or path) / LOGS
        files.make_folders(logs)
        log = logs / f"{path.name}.log"
        with files.log(log) as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "microgpt", *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._begun.pop(run, None)  # the newest is the last
        self._begun[run] = Training(run, process, log)

    def stop(self, run: str, path: Path) -> None:
        """Ask the trainer of a run, whoever began it, to save and end. Raises ApiError."""
        if sys.platform == "win32":  # which has no signal that a process of another console can answer
            raise ApiError(409, "on Windows a training is stopped with Ctrl-C where it runs")
        with self._lock:
            begun = self._begun.get(run)
            if begun and begun.ended is None:
                if not begun.stopped:
                    begun.stopped = True
                    begun.process.send_signal(signal.SIGINT)
                return
        folder = RunFolder(path)
        try:
            owner = files.read_json(folder.owner_file)
        except CheckpointError:
            owner = None
        here = isinstance(owner, dict) and owner.get("host") == socket.gethostname()
        pid = owner.get("pid") if here and isinstance(owner, dict) else None
        if not folder.is_running() or type(pid) is not int or pid < 2 or pid == os.getpid():
            raise ApiError(409, f"the run {run!r} is not being trained on this machine")
        trainer = path, pid, str(owner.get("since") if isinstance(owner, dict) else "")
        with self._lock:
            if trainer in self._asked:
                return
            self._asked.add(trainer)
        try:
            os.kill(pid, signal.SIGINT)
        except OSError as error:
            raise ApiError(409, f"the trainer of {run!r} cannot be reached: {error.strerror}") from None
