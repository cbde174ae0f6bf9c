"""Several runs in threads, whose models are trained as one on a GPU; else as experiments.threads, of the same folder.

Numbers are those of each run alone, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from microgpt.experiments.threads import ThreadBatch
from microgpt.signals import StopRequest


class LaneBatch(ThreadBatch):
    """A ThreadBatch, of the same further arguments, whose runs are trained in the lanes that `make(n)` makes."""

    def __init__(self, make: Callable[[int], Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.make = make

    def train_all(self, waiting: list[int], stop: StopRequest) -> None:
        self.lanes = self.make(len(waiting))
        super().train_all(waiting, stop)

    def at_once(self, waiting: int) -> int:
        return max(1, waiting)  # each step is one of all

    def makes_way(self, number: int, job: Future[None]) -> bool:
        return True  # none takes a step before all have begun

    def options(self, lane: int) -> dict[str, Any]:
        return super().options(lane) | {"beside": partial(self.lanes.lane, lane)}

    def _train(self, number: int, lane: int, stop: StopRequest) -> None:
        try:
            super()._train(number, lane, stop)
        finally:
            self.lanes.leave(lane)
