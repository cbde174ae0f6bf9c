"""The scheduler without a server: fairness within a model, errors of one text, errors of the engine.

Longer than 350 lines, because all of its tests serve one model with the same few helpers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.engines.fused import slots as fused_slots
from microgpt.inference.chat import load
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling
from microgpt.serve import scheduler
from microgpt.serve.admission import Admission
from microgpt.serve.generation import Event, Finished, Generation, Scored, Token, seed_of
from microgpt.serve.metrics import Metrics
from microgpt.serve.models import ServedModel
from microgpt.serve.reply import MOST_UNREAD, Reply


@pytest.fixture(scope="module")
def model(endless_run: Path) -> LanguageModel:
    return load(endless_run)


def run(model: LanguageModel, check: Callable[[ServedModel, Admission], Awaitable[None]], most: int = 4) -> None:
    """Run a check on a served model."""

    async def running() -> None:
        admission = Admission(most, 2)
        served = ServedModel("endless", model, admission, Metrics(admission, []), most)
        async with asyncio.timeout(120):
            await check(served, admission)
        assert admission.active == admission.waiting == 0
        served.retire()

    asyncio.run(running())


def greedy(model: LanguageModel, text: str = "a", tokens: int = 5, **options: object) -> Generation:
    prompt = [model.tokenizer.bos, *model.tokenizer.encode(text).tolist()]
    return Generation(prompt, Sampling(0), 1, tokens, **options)  # type: ignore[arg-type]


async def events(served: ServedModel, *requests: Generation, whole: bool = False) -> list[tuple[int, Event]]:
    async with await served.submit(requests, "client", whole=whole) as reply:
        return [event async for event in reply]


def text(found: list[tuple[int, Event]], number: int = 0) -> str:
    return "".join(event.text for n, event in found if n == number and isinstance(event, (Token, Finished)))


class Spoiled:
    """A constraint with a defect, which shows at the third token."""

    finished = False

    def __init__(self, size: int) -> None:
        self.size, self.calls = size, 0

    def allowed(self) -> np.ndarray:
        self.calls += 1
        if self.calls > 2:
            raise ZeroDivisionError("a defect")
        return np.ones(self.size, dtype=bool)

    def accept(self, token: int) -> None:
        pass


@pytest.mark.parametrize("whole", [False, True])
def test_an_error_of_one_text_ends_its_reply_alone(model: LanguageModel, whole: bool) -> None:
    async def check(served: ServedModel, _: Admission) -> None:
        bad = greedy(model, mask=Spoiled(model.tokenizer.vocab_size), tokens=100)
        good = asyncio.create_task(events(served, greedy(model, tokens=200)))
        with pytest.raises(ZeroDivisionError):
            await events(served, bad, greedy(model, tokens=50), whole=whole)
        assert text(await good) == ("ba" * 100)

    run(model, check)


@pytest.mark.parametrize("echo", [False, True])
def test_a_lack_of_memory_for_a_prompt_ends_its_reply_alone(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, echo: bool
) -> None:
    """Of the cache of one that is computed, or of the logits of one that is scored."""

    async def check(served: ServedModel, _: Admission) -> None:
        def lacking(*_: object) -> None:
            raise MemoryError

        good = asyncio.create_task(events(served, greedy(model, tokens=300)))
        while not drawn(served):
            await asyncio.sleep(0)
        with monkeypatch.context() as less:
            less.setattr(model.engine, "logits", lacking) if echo else less.setattr(fused_slots, "Cache", lacking)
            with pytest.raises(MemoryError):
                await events(served, greedy(model, "ab" * 50, logprobs=1, echo=echo), greedy(model))
        assert text(await good) == "ba" * 150
        assert text(await events(served, greedy(model, "ab" * 50, logprobs=1, echo=echo))) == "ababa"
        assert served._scheduler._free == 8

    run(model, check)


def test_tokens_that_follow_one_another_closely_are_handed_over_together(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the last ones at once."""
    monkeypatch.setattr(scheduler, "GATHER_SECONDS", 60)

    async def check(served: ServedModel, _: Admission) -> None:
        async with await served.submit([greedy(model, tokens=600)], "client") as reply:
            found = [batch async for batch in reply.batches()]
        assert text([event for batch in found for event in batch]) == "ba" * 300
        assert max(map(len, found)) >= scheduler.MOST_GATHERED

    run(model, check)


def test_a_reply_that_has_ended_is_handed_over_at_once(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "GATHER_SECONDS", 60)
    monkeypatch.setattr(scheduler, "MOST_GATHERED", 10**6)

    async def check(served: ServedModel, _: Admission) -> None:
        slots = served._scheduler._slots
        step = slots.step
        slots.step = lambda *given: time.sleep(0.002) or step(*given)  # type: ignore[method-assign]
        async with await served.submit([greedy(model, tokens=4000)], "long"):
            for whole in (True, False):
                assert text(await events(served, greedy(model), whole=whole)) == "babab"
            bad = greedy(model, mask=Spoiled(model.tokenizer.vocab_size), tokens=100)
            with pytest.raises(ZeroDivisionError):
                await events(served, bad)
            assert drawn(served) < 4000

    run(model, check)


def test_the_first_token_of_a_reply_is_handed_over_at_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the probabilities of its prompt were handed over just before."""
    monkeypatch.setattr(scheduler, "GATHER_SECONDS", 60)
    monkeypatch.setattr(scheduler, "PREFILL_SECONDS", 0)
    monkeypatch.setattr(scheduler, "MOST_GATHERED", 10**6)

    async def check(served: ServedModel, _: Admission) -> None:
        slots = served._scheduler._slots
        step = slots.step
        slots.step = lambda *given: time.sleep(0.01) or step(*given)  # type: ignore[method-assign]
        asked = greedy(model, "ab" * 50, logprobs=1, echo=True, tokens=4000)
        async with await served.submit([asked], "client") as reply:
            tokens = 0
            async for batch in reply.batches():
                tokens = sum(isinstance(event, Token) for _, event in batch)
                if tokens:
                    break
            assert tokens == 1

    run(model, check)


def test_the_next_token_waits_until_the_first_one_is_taken(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker would hold the interpreter while the event loop wants it."""
    monkeypatch.setattr(scheduler, "STALL_SECONDS", 60)

    async def check(served: ServedModel, _: Admission) -> None:
        slots = served._scheduler._slots
        step, steps = slots.step, []
        slots.step = lambda *given: steps.append(1) or step(*given)  # type: ignore[method-assign,func-returns-value]
        async with await served.submit([greedy(model)], "client") as reply:
            while not drawn(served):
                time.sleep(0.001)  # the loop does not run
            time.sleep(0.05)
            assert not steps
            assert text([event async for event in reply]) == "babab"

    run(model, check)


def test_an_error_of_the_engine_is_told_to_everybody_and_the_next_one_is_served(model: LanguageModel) -> None:
    async def check(served: ServedModel, _: Admission) -> None:
        slots = served._scheduler._slots
        step = slots.step

        def failing(chosen: list[int], tokens: list[int]) -> np.ndarray:
            if len(chosen) == 3:  # all are there
                raise MemoryError
            return step(chosen, tokens)

        slots.step = failing  # type: ignore[assignment, method-assign]
        replies = [events(served, greedy(model, tokens=4000), whole=bool(i % 2)) for i in range(3)]
        assert [type(found) for found in await asyncio.gather(*replies, return_exceptions=True)] == [MemoryError] * 3
        assert text(await events(served, greedy(model))) == "babab"

    run(model, check)


def test_many_texts_of_a_reply_leave_room_for_others(model: LanguageModel) -> None:
    async def check(served: ServedModel, _: Admission) -> None:
        slots = served._scheduler._slots
        step, widths = slots.step, []

        def noted(chosen: list[int], tokens: list[int]) -> np.ndarray:
            widths.append(len(chosen))
            return step(chosen, tokens)

        slots.step = noted  # type: ignore[assignment, method-assign]
        many = [greedy(model, tokens=200)] * 60
        async with await served.submit(many, "greedy") as reply:
            await anext(reply)
            assert text(await events(served, greedy(model))) == "babab"
            seen = {0}
            async for number, _event in reply:
                seen.add(number)
            assert seen == set(range(60))
        assert max(widths) <= 6  # the first text, as many side texts as replies may run, and the other client's

    run(model, check)


def test_a_long_prompt_is_computed_in_pieces_between_the_steps_of_others(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "PREFILL_SECONDS", 0)

    async def check(served: ServedModel, _: Admission) -> None:
        order: list[str] = []
        slots = served._scheduler._slots
        prefill, step = slots.prefill, slots.step

        def noted(name: str, function: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object) -> object:
                order.append(name)
                return function(*arguments)

            return call

        slots.prefill, slots.step = noted("p", prefill), noted("s", step)  # type: ignore[assignment, method-assign]
        short = asyncio.create_task(events(served, greedy(model, tokens=3000)))
        await asyncio.sleep(0.05)
        long = await events(served, greedy(model, "ab" * 2000, tokens=2))
        await short
        assert text(long) == "ab"
        pieces = [i for i, name in enumerate(order) if name == "p"][1:]
        assert len(pieces) > 40
        assert all(order[i + 1] == "s" for i in pieces)

    run(model, check)


def test_a_text_ends_before_its_stop(model: LanguageModel) -> None:
    async def check(served: ServedModel, _: Admission) -> None:
        found = await events(served, greedy(model, "ab", tokens=50, stops=["ba"]))
        assert text(found) == "a"
        assert isinstance(found[-1][1], Finished)
        assert found[-1][1].reason == "stop"

    run(model, check)


def test_a_seed_is_that_of_the_terminal(model: LanguageModel) -> None:
    async def check(served: ServedModel, _: Admission) -> None:
        prompt = [model.tokenizer.bos]
        first = 2**64 - 1
        many = [Generation(prompt, Sampling(3.0), seed_of(first, i), 20) for i in range(3)]
        found = await events(served, *many)
        for i, seed in enumerate((first, 0, 1)):
            assert text(found, i) == model.generate("", temperature=3.0, seed=seed, max_tokens=20).read()

    run(model, check)


def drawn(served: ServedModel) -> float:
    """Tokens so far."""
    return served._scheduler._metrics.tokens._value.get()  # type: ignore[no-any-return]


def test_a_reply_that_is_not_read_waits_alone(model: LanguageModel) -> None:
    """Its events take a bounded memory, and none is lost.

    Beside those that wait for their reader, the worker runs ahead of the event loop by MOST_UNTAKEN and by a delivery
    that it gathers.
    """
    most = MOST_UNREAD + scheduler.MOST_UNTAKEN + scheduler.MOST_GATHERED + 2 * 4

    async def check(served: ServedModel, _: Admission) -> None:
        async with await served.submit([greedy(model, tokens=3000)] * 2, "slow") as reply:
            while not reply.behind:
                await asyncio.sleep(0.01)
            before = drawn(served)
            assert text(await events(served, greedy(model, tokens=500))) == "ba" * 250
            assert drawn(served) - before <= 500 + most
            assert len(reply._events) <= most
            found = [event async for event in reply]
        assert [text(found, number) for number in (0, 1)] == ["ba" * 1500] * 2

    run(model, check)


def test_a_client_may_catch_up_at_any_moment(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between two looks of the worker: no text is forgotten on its slot."""

    async def check(served: ServedModel, _: Admission) -> None:
        random = Random(1)
        monkeypatch.setattr(Reply, "behind", property(lambda reply: random.random() < 0.5))
        async with await served.submit([greedy(model, tokens=50)] * 3, "client") as reply:
            found = [event async for event in reply]
        assert [text(found, number) for number in range(3)] == ["ba" * 25] * 3
        assert not served._scheduler._running

    run(model, check)


def test_a_client_may_leave_at_any_moment(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between two looks of the worker: its slots are free afterwards."""

    async def check(served: ServedModel, _: Admission) -> None:
        looks = None  # until the worker sees that the reply is closed

        def closed(reply: Reply) -> bool:
            nonlocal looks
            if looks:
                looks -= 1
            return reply.__dict__["closed"] or looks == 0

        def close(reply: Reply, value: bool) -> None:
            reply.__dict__["closed"] = value

        monkeypatch.setattr(Reply, "closed", property(closed, close), raising=False)
        for after in range(1, 20):
            async with await served.submit([greedy(model, tokens=4000)] * 4, "client"):
                while len(served._scheduler._running) < 4:
                    await asyncio.sleep(0.001)
                looks = after
                while served._scheduler._running:
                    await asyncio.sleep(0.001)
                assert served._scheduler._free == 8
                looks = None

    run(model, check)


def test_the_worker_does_not_run_ahead_of_the_event_loop(model: LanguageModel) -> None:
    """A loop that is held up for a while is not held up longer by what was generated meanwhile."""

    async def check(served: ServedModel, _: Admission) -> None:
        replies = [await served.submit([greedy(model, tokens=3000)] * 4, "client") for _ in range(4)]
        reading = [asyncio.create_task(read(reply)) for reply in replies]
        while not drawn(served):
            await asyncio.sleep(0)
        before = drawn(served)
        time.sleep(0.5)
        assert drawn(served) - before <= scheduler.MOST_UNTAKEN + scheduler.MOST_GATHERED + 4 * 4 * 4
        for task, reply in zip(reading, replies, strict=True):
            task.cancel()
            reply.close()
        await asyncio.gather(*reading, return_exceptions=True)

    async def read(reply: Reply) -> None:
        async with reply:
            async for _ in reply:
                pass

    run(model, check)


@pytest.mark.parametrize("whole", [False, True])
def test_what_a_prompt_scores(model: LanguageModel, whole: bool) -> None:
    async def check(served: ServedModel, _: Admission) -> None:
        found = await events(served, greedy(model, "ab" * 100, 0, echo=True, logprobs=2), whole=whole)
        scores = [event for _, event in found if isinstance(event, Scored)]
        assert len(scores) == 200
        assert scores[0].logprob is None
        tokens = np.array([model.tokenizer.bos, *model.tokenizer.encode("ab" * 100).tolist()], dtype=np.int32)
        logits = model.engine.logits(model.state, tokens)[0].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for i, score in enumerate(scores[1:], start=1):
            assert score.logprob == pytest.approx(expected[i, tokens[i + 1]], abs=1e-5)
        assert found[-1][1] == Finished("length", "", 201, 0)

    run(model, check)
