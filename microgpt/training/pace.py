"""The pace of a run that must end at a time: its schedule follows the clock, and what it did can be repeated.

The progress through the schedule is a line of knots, (step, progress), of which the next one is set ahead by the time
that its steps will take. Learning rates follow from the knots alone, so that a run with the same knots is the same run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from microgpt.optim import progress_at

PARTS = 200  # of the time, after each of which the next knot is set
SHORTEST = 0.1  # seconds between knots
UNSURE = 2  # blocks of steps before the time of a step is known: the first ones may have compiled something

Knot = tuple[int, float]


class Pace:
    """The knots of a run, and the time at which the last one is due.

    They begin when the run turns out to be too slow for its steps; before, and otherwise, the steps decide.
    """

    def __init__(self, begun: int, steps: int, knots: Sequence[Knot] = ()) -> None:
        self.begun, self.steps = begun, steps  # of the schedule: its first step and its total
        self.knots = list(knots)
        self.end = math.inf  # of training, by time.monotonic()
        self._since = 0.0
        self._from = 0.0  # the progress at that time
        self._part = SHORTEST
        self._asked = 0

    def start(self, step: int, end: float) -> None:
        """Begin, or go on, at a step; progress is 1 at the time `end`.

        A knot beyond the step stays, so that the rates of the steps before are those that they had, to the last bit.
        """
        self.end, self._since = end, time.monotonic()
        self._from = self.progress(step)
        self._part = max(SHORTEST, (end - self._since) / PARTS)

    def progress(self, step: int) -> float:
        """The progress through the schedule at a step."""
        return progress_at(self.knots, step) if self.knots else (step - self.begun) / max(1, self.steps - self.begun)

    def at(self, now: float) -> float:
        """The progress that is due at a time."""
        return self._from + (1 - self._from) * min(
            1.0, max(0.0, (now - self._since) / max(1e-9, self.end - self._since))
        )

    def is_done(self, step: int) -> bool:
        """Whether the schedule ended at a step."""
        return bool(self.knots) and self.knots[-1][0] <= step and self.knots[-1][1] >= 1

    def next_knot(self, step: int, seconds_per_step: float) -> int:
        """The step of the knot after `step`, set now if there is none; the total of steps if they decide."""
        if self.knots and self.knots[-1][0] > step:
            return self.knots[-1][0]
        now = time.monotonic()
        left = max(0.0, self.end - now)
        if not self.knots:
            self._asked += 1
            if self._asked <= UNSURE or (self.steps - step) * seconds_per_step <= left:
                return self.steps
            self._since, self._from = now, self.progress(step)
            self.knots = [(step, self._from)]
        last = left < 1.5 * self._part
        count = max(1, int((left if last else self._part) / seconds_per_step))
        due = 1.0 if last else self.at(now + count * seconds_per_step)
        by_steps = (step + count - self.begun) / max(1, self.steps - self.begun)
        self.knots.append((step + count, min(1.0, max(due, by_steps, self.knots[-1][1]))))
        return step + count
