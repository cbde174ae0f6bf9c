"""Lines for stderr, written by a thread of its own: a pipe that nobody reads does not hold up the service."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from microgpt.terminal import say

BATCH_SECONDS = 0.002  # in which lines are collected, or the thread would wake for each of them
MOST_LINES = 10_000  # waiting; older ones are dropped


class Log(logging.Handler):
    """A handler of logging, and for the access log a function that takes a line."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._news = threading.Event()
        self._written = threading.Event()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """A record of logging."""
        self.line(self.format(record))

    def line(self, text: str) -> None:
        """A line."""
        self._lines.append(text)
        self._written.clear()
        if not self._news.is_set():
            self._news.set()

    def flush(self) -> None:
        """Wait until all is written, but not long."""
        self._news.set()
        self._written.wait(0.5)

    def _work(self) -> None:
        while True:
            self._news.wait()
            time.sleep(BATCH_SECONDS)
            self._news.clear()
            lines = []
            while self._lines:
                lines.append(self._lines.popleft())
            if lines:
                say("\n".join(lines), lines=True)
            if not self._lines:
                self._written.set()
