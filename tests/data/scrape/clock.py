"""A clock that does not wait."""

from __future__ import annotations

from microgpt.data.scrape.fetch import Clock


class NoWait(Clock):
    def __init__(self) -> None:
        self.time, self.slept = 0.0, list[float]()

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
