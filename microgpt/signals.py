"""Ctrl-C and SIGTERM: while a run goes on a wish to stop soon, the second one to stop now; else an exception."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C where nothing needs to be saved."""


def handle(hear: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Let `hear` answer both signals, unless they are ignored (as a shell does for its background jobs).

    Returns the handlers before. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, hear) for number in numbers}


def restore(handlers: dict[int, Any]) -> None:
    """Undo `handle`."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def raised() -> Iterator[None]:
    """Within the block SIGINT raises KeyboardInterrupt and SIGTERM Terminated."""
    heard: list[KeyboardInterrupt] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise heard[-1]

    before = handle(hear)
    try:
        yield
    except Exception:
        if heard:  # a library took the signal for an error of its own
            raise heard[-1] from None
        raise
    finally:
        restore(before)


class Wish:
    """`number` is the signal that asked to stop, or None."""

    def __init__(self) -> None:
        self.number: int | None = None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; let the second one kill."""
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number


@contextmanager
def listen() -> Iterator[Wish]:
    """Within the block, signals are noted instead of raised."""
    wish = Wish()
    before = handle(wish.hear)
    try:
        yield wish
    finally:
        restore(before)
