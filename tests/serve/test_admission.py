"""The turnstile: how many may run, who waits, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from microgpt.serve.admission import Admission
from microgpt.serve.errors import Closing, Overloaded


def test_admission_is_bounded_fair_and_forgets() -> None:
    async def check() -> None:
        admission = Admission(1, 3)
        order: list[str] = []

        async def client(name: str) -> None:
            await admission.enter(name)
            order.append(name)

        await admission.enter("first")
        waiting = [asyncio.create_task(client(name)) for name in ("a", "a", "b")]
        await asyncio.sleep(0)
        assert admission.waiting == 3
        with pytest.raises(Overloaded) as caught:
            await admission.enter("c")
        assert int(caught.value.headers["retry-after"]) >= 1
        for _ in range(3):
            admission.leave(0.1)
            await asyncio.sleep(0)
        assert order == ["a", "b", "a"]
        left = asyncio.create_task(client("d"))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert (admission.active, admission.waiting) == (1, 0)
        raced = asyncio.create_task(client("e"))
        await asyncio.sleep(0)
        admission.leave()  # its turn comes, and its client leaves before it runs
        raced.cancel()
        await asyncio.gather(raced, return_exceptions=True)
        assert (admission.active, admission.waiting) == (0, 0)
        await admission.enter("f")
        last = asyncio.create_task(client("g"))
        await asyncio.sleep(0)
        admission.close()
        with pytest.raises(Closing):
            await last
        with pytest.raises(Closing):
            await admission.enter("h")
        assert admission.waiting == 0
        await asyncio.gather(*waiting)

    asyncio.run(asyncio.wait_for(check(), 120))
