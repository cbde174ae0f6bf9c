"""Who may run: up to `most` replies at a time, a bounded queue that is fair between clients, and no more."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque

from microgpt.serve.errors import Closing, Overloaded

Waiter = asyncio.Future[None]


class Admission:
    """A turnstile on the event loop. Waiting clients take turns; the requests of one client go in order."""

    def __init__(self, most: int, queue: int) -> None:
        self._most, self._queue = most, queue
        self._waiting: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self.active = 0  # replies under way
        self.waiting = 0  # requests in the queue
        self.closing = False
        self.seconds = 1.0  # a running mean of the time that a reply takes

    async def enter(self, client: str) -> None:
        """Wait for a turn. Raises Overloaded if the queue is full, Closing if the server ends."""
        if self.closing:
            raise Closing
        if self.active < self._most and not self.waiting:
            self.active += 1
            return
        if self.waiting >= self._queue:
            raise Overloaded("all streams are busy and the queue is full; try again later", self.retry_after())
        turn: Waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # it was its turn when its client left
            else:
                self._forget(client, turn)
            raise

    def leave(self, seconds: float | None = None) -> None:
        """A reply has ended, after so many seconds; the next client's turn."""
        if seconds is not None:
            self.seconds += 0.1 * (seconds - self.seconds)
        self.active -= 1
        while self._waiting and self.active < self._most:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # behind the others
            self.waiting -= 1
            if not turn.done():
                self.active += 1
                turn.set_result(None)

    def close(self) -> None:
        """Refuse whoever waits or comes."""
        self.closing = True
        for turns in self._waiting.values():
            for turn in turns:
                if not turn.done():
                    turn.set_exception(Closing())
        self._waiting.clear()
        self.waiting = 0

    def retry_after(self) -> int:
        """Seconds after which the queue has probably moved on."""
        return min(60, max(1, math.ceil(self.seconds * (self.waiting + 1) / self._most)))

    def _forget(self, client: str, turn: Waiter) -> None:
        turns = self._waiting.get(client)
        if turns and turn in turns:
            turns.remove(turn)
            self.waiting -= 1
            if not turns:
                del self._waiting[client]
