"""Turns of work on threads: they last as long as the thread, not as long as the client."""

from __future__ import annotations

import asyncio
import threading

import pytest

from microgpt.serve.models import in_turn


def test_a_turn_lasts_until_its_thread_has_ended() -> None:
    async def main() -> None:
        turn, go, began = asyncio.Lock(), threading.Event(), threading.Event()

        def work() -> None:
            began.set()
            go.wait(30)

        left = asyncio.create_task(in_turn(turn, work))
        while not began.is_set():
            await asyncio.sleep(0.001)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert turn.locked()
        following = asyncio.create_task(in_turn(turn, lambda: 7))
        await asyncio.sleep(0.02)
        assert not following.done()
        go.set()
        assert await following == 7
        with pytest.raises(ZeroDivisionError):
            await in_turn(turn, lambda: 1 / 0)
        assert not turn.locked()

    asyncio.run(main())
