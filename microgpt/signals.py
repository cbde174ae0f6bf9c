"""Ctrl-C and SIGTERM: during a run the first one asks it to stop and the second one kills; elsewhere they raise."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C where nothing needs to be saved."""


def set_handlers(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle both signals with `handler`, except those that are ignored (as a shell does for its background jobs).

    Returns the previous handlers. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def restore_handlers(handlers: dict[int, Any]) -> None:
    """Undo `set_handlers`."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Within the block SIGINT raises KeyboardInterrupt and SIGTERM raises Terminated.

    One that arrives in a callback of the interpreter (a destructor, an import lock), which drops errors with a
    traceback, is raised again after AGAIN seconds.
    """
    received: list[KeyboardInterrupt] = []
    dropped: list[threading.Timer] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise received[-1]

    def unraisable(error: Any) -> None:
        if not isinstance(error.exc_value, KeyboardInterrupt):
            report(error)
            return
        number = signal.SIGTERM if isinstance(error.exc_value, Terminated) else signal.SIGINT
        dropped.append(threading.Timer(AGAIN, os.kill, (os.getpid(), number)))
        dropped[-1].start()

    before, report = set_handlers(handle), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield
        if any(timer.is_alive() for timer in dropped):
            raise received[-1]
    except Exception:
        if received:  # a library turned the signal into an error of its own
            raise received[-1] from None
        raise
    finally:
        for timer in dropped:
            timer.cancel()
        sys.unraisablehook = report
        restore_handlers(before)


AGAIN = 0.01
HANDED_ON = 2.0  # seconds that a launcher may take to hand on a signal
NO_THREADS = (
    "cannot start a thread: the limit of processes is reached; raise it (ulimit -u), "
    "or set OPENBLAS_NUM_THREADS=1 and --threads 1"
)


def can_start_threads() -> bool:
    """Whether the limit of processes allows another thread. Where it does not, OpenBLAS raises SIGINT."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True


class StopRequest:
    """`number` is the signal that asked the run to stop, or None; `since`: when it came, by time.monotonic."""

    def __init__(self, several: bool) -> None:
        self.number: int | None = None
        self.since = 0.0
        self.same = HANDED_ON if several else 0.0  # seconds within which a second one is the first again

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; let the second one kill the process."""
        if self.number is None:
            self.number, self.since = number, time.monotonic()
        elif time.monotonic() - self.since >= self.same:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def listen(several: bool = False) -> Iterator[StopRequest]:
    """Within the block, signals are recorded instead of raised.

    One of `several` processes is told twice at once: by Slurm, or by the terminal, and by the launcher that was told.
    """
    stop = StopRequest(several)
    before = set_handlers(stop.handle)
    try:
        yield stop
    finally:
        restore_handlers(before)
