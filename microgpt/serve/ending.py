"""The end of the process: a signal asks for it, and status 0 follows within LEAVE_SECONDS, whatever is under way.

Every phase of the end has a deadline that counts from the signal, so one that takes long shortens the next. The last
one is kept by a thread of its own, and nothing waits for threads that compute: the process leaves without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from microgpt.serve.log import Log
from microgpt.signals import restore_handlers, set_handlers

# Seconds after the signal.
GRACE_SECONDS = 1.0  # in which replies under way may end by themselves
CUT_SECONDS = 2.5  # after which connections that do not take their last event are cut
LEAVE_SECONDS = 4.0  # after which the process leaves, come what may


class Ending:
    """A request to end: asked for by the first SIGINT or SIGTERM; the second one kills the process."""

    def __init__(self, log: Log) -> None:
        self.asked = asyncio.Event()
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._signalled = False
        self._began: float | None = None  # when the end began, by time.monotonic: with the signal, if one came
        self._over = threading.Event()  # a signal came, or none is listened for any longer

    @contextlib.contextmanager
    def on_signal(self) -> Iterator[None]:
        """Listen for signals within the block."""
        threading.Thread(target=self._watch, name="end", daemon=True).start()
        before = set_handlers(self._handle)
        try:
            yield
        finally:
            restore_handlers(before)
            self._over.set()

    def left(self, seconds: float) -> float:
        """How many of so many seconds after the signal are left, at least 0; without one they count from now on."""
        self._began = self._began or time.monotonic()
        return max(0.0, self._began + seconds - time.monotonic())

    def leave(self) -> NoReturn:
        """End the process with status 0. Threads in the middle of a step or of loading a model are not waited for."""
        self._log.flush()
        os._exit(0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signalled, self._began = True, time.monotonic()
        self._over.set()
        self._loop.call_soon_threadsafe(self.asked.set)

    def _watch(self) -> None:
        self._over.wait()
        if self._signalled:
            time.sleep(self.left(LEAVE_SECONDS))
            self.leave()
