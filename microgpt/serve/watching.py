"""What a service remembers of the runs that are looked at: summaries, metrics and losses to beat. For many threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

from microgpt.errors import MicrogptError
from microgpt.inference.baselines import Baselines, baselines
from microgpt.runs.folder import RunFolder
from microgpt.runs.history import History
from microgpt.runs.listing import Listing, RunSummary

MOST_HISTORIES = 16  # of at most some 10 MB each
AGAIN_SECONDS = 20  # after which losses that could not be told are tried again


class Watching:
    """The memory; all of its methods read files."""

    def __init__(self) -> None:
        self.watchers = 0  # streams under way; the event loop counts them
        self._lock, self._losses_lock = threading.Lock(), threading.Lock()
        self._listing = Listing()
        self._histories: OrderedDict[Path, tuple[History, threading.Lock]] = OrderedDict()
        self._losses: dict[tuple[Path, str], tuple[float, Baselines | str]] = {}

    def summaries(self, paths: Mapping[str, Path]) -> dict[str, RunSummary]:
        """The summaries of runs by their names."""
        with self._lock:
            return self._listing.summaries(dict(paths))

    def summary(self, path: Path) -> RunSummary:
        """The summary of one run."""
        with self._lock:
            return self._listing.summary(path)

    @contextlib.contextmanager
    def history(self, path: Path) -> Iterator[History]:
        """The metrics of a run as they are now, for this thread alone within the block."""
        with self._lock:
            found = self._histories.pop(path, None) or (History(RunFolder(path).metrics_file), threading.Lock())
            self._histories[path] = found
            while len(self._histories) > MOST_HISTORIES:
                self._histories.popitem(last=False)
        history, lock = found
        with lock:
            with contextlib.suppress(OSError):
                history.poll()
            yield history

    def baselines(self, path: Path) -> Baselines | str:
        """The losses to beat, or why they cannot be told; computed once for the text of a run."""
        summary = self.summary(path)
        if not summary.has_model:
            return "there is no checkpoint yet"
        key = (path, str(summary.data.get("sha256")))
        with self._losses_lock:
            at, found = self._losses.get(key, (0.0, ""))
            if isinstance(found, Baselines) or (found and time.monotonic() - at < AGAIN_SECONDS):
                return found
            try:
                found = baselines(path)
            except (MicrogptError, OSError) as error:
                found = str(error).partition(";")[0]
            self._losses[key] = (time.monotonic(), found)
            return found
