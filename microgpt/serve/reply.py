"""A reply under way: its events on their way from the worker thread to whoever reads them on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from microgpt.serve.generation import Event, Finished, Generation

MOST_UNREAD = 64  # events that wait for their reader, after which the worker generates no more of them


class Reply:
    """The events of one or several texts, as pairs of the text's number and the event, until all have finished.

    One task reads it. Close it when nobody reads on (`async with` does): the worker then stops within one step.
    """

    def __init__(
        self, requests: Sequence[Generation], on_close: Callable[[bool], None], *, asked: float, whole: bool
    ) -> None:
        self.requests = list(requests)
        self.closed = False
        self.asked = asked  # when, by time.monotonic
        self.whole = whole  # whether its events are handed over all at its end
        self.begun = False  # whether it has a token; the worker's
        self.unfinished = len(self.requests)  # texts; the worker's
        self.failed: Exception | None = None  # the error that ended it; the worker's
        self._on_close = on_close  # called with whether texts were still being generated
        self._left = len(self.requests)
        self._events: deque[tuple[int, Event]] = deque()
        self._error: Exception | None = None  # that ended it, after its events
        self._waiter: asyncio.Future[None] | None = None  # of whoever reads

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not await self._arrived():
            raise StopAsyncIteration
        event = self._events.popleft()
        self._left -= isinstance(event[1], Finished)
        return event

    async def batches(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """The events as they come: each time all that are there."""
        while await self._arrived():
            events = list(self._events)
            self._events.clear()
            for _, event in events:
                self._left -= isinstance(event, Finished)
            yield events

    async def _arrived(self) -> bool:
        """Wait for an event: whether one is there, or all texts have finished. Raises the error that ended them."""
        while not self._events:
            if self._error:
                self.close()
                raise self._error
            if not self._left:
                self.close()
                return False
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return True

    @property
    def behind(self) -> bool:
        """Whether its client does not read as fast as the texts come."""
        return len(self._events) > MOST_UNREAD

    def close(self) -> None:
        """Stop the texts that are still being generated."""
        if not self.closed:
            self.closed = True
            self._on_close(self._left > 0)

    def interrupt(self, error: Exception) -> None:
        """End with an error, instead of the events that were not read yet."""
        self._events.clear()
        self._error = error
        self._wake()
        self.close()

    def put(self, events: Sequence[tuple[int, Event]], error: Exception | None = None) -> None:
        """Called on the event loop by the worker; nothing follows an error."""
        if not self.closed:
            self._events.extend(events)
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
