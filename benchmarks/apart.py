"""Sides of a race in a process of their own.

A library changes the process that imports it: its threads, its memory, how its floats treat denormals (once a peer hid
by this that our side did not flush them). So peers are imported, run and timed in another process than our side.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np


class Side(Protocol):
    """One program in a race."""

    name: str

    def reset(self) -> None:
        """Back to the initial weights; not timed."""

    def train(self) -> np.ndarray:
        """The work, timed: the losses float64 (steps,), or an empty array where they cannot be compared."""


class Remote:
    """A side in another process."""

    def __init__(self, connection: Any, number: int, name: str) -> None:
        self.connection, self.number, self.name = connection, number, name
        self.drawn = 0  # tokens, where the side draws some

    def reset(self) -> None:
        """Done before each run, over there."""

    def train(self) -> np.ndarray:
        return self.timed(cpu_time=False)[1]

    def timed(self, cpu_time: bool) -> tuple[float, np.ndarray]:
        """Seconds and losses of a run, as `timed` there finds them."""
        self.connection.send((self.number, cpu_time))
        seconds, losses, self.drawn = _answer(self.connection)
        return seconds, losses


def timed(side: Side, cpu_time: bool) -> tuple[float, np.ndarray]:
    """Reset a side and run it: seconds, by the clock or of the CPU in the side's process, and losses."""
    if isinstance(side, Remote):
        return side.timed(cpu_time)
    clock = time.process_time if cpu_time else time.perf_counter
    side.reset()
    start = clock()
    losses = side.train()
    return clock() - start, losses


class Failed(RuntimeError):
    """A side cannot run; what it raised in its process is in the text."""


def apart(make: Callable[..., Sequence[Side]], *args: object) -> list[Side]:
    """The sides that make(*args) makes in a process of its own, which ends when all of them are forgotten.

    `make` is a function of a module. Raises Failed where it fails, AssertionError where it finds other work.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=_serve, args=(there, make, args), daemon=True).start()
    there.close()
    return [Remote(here, number, name) for number, name in enumerate(_answer(here))]


def _answer(connection: Any) -> Any:
    """What comes from there. Raises what `apart` raises."""
    try:
        failure, answer = connection.recv()
    except EOFError:
        raise Failed("its process ended") from None
    if failure:
        raise AssertionError(answer) if failure == "AssertionError" else Failed(f"{failure}: {answer}")
    return answer


def _serve(connection: Any, make: Callable[..., Sequence[Side]], args: tuple[object, ...]) -> None:
    """Make the sides, then run one each time that it is asked for, until nobody is left to ask."""

    def reply(work: Callable[[], Any]) -> None:
        failure: str = ""
        try:
            answer = work()
        except Exception as error:
            failure, answer = type(error).__name__, str(error)
        connection.send((failure, answer))

    sides: list[Side] = []

    def names() -> list[str]:
        sides.extend(make(*args))
        return [side.name for side in sides]

    def run(side: Side, cpu_time: bool) -> tuple[object, ...]:
        return *timed(side, cpu_time), getattr(side, "drawn", 0)

    reply(names)
    with suppress(EOFError):
        while sides:
            number, cpu_time = connection.recv()
            reply(partial(run, sides[number], cpu_time))
