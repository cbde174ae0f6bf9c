"""Continuous batching: a worker thread per model steps all its texts side by side, and texts come and go at any step.

The event loop submits replies, each of one or several texts, and reads their events. The worker alone touches the
engine: it gives texts their slots, computes long prompts in pieces between the steps of the others, and lets go of a
reply within one step of its client's leaving.

The worker keeps pace with the event loop, which would otherwise answer everything else later and later: it waits where
more than MOST_UNTAKEN events were handed over that the loop has not come to, and the texts of a client that does not
read wait alone. Tokens that follow one another more closely than anybody sees are handed over together, since a packet
to a client costs more than a token of a small model.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import draw_batch
from microgpt.inference.slots import open_slots
from microgpt.serve.generation import Event, Finished, Generation, Scored, Token
from microgpt.serve.metrics import Metrics
from microgpt.serve.reply import Reply
from microgpt.serve.sequence import Sequence as Text
from microgpt.serve.sequence import score_prompt, weigh_prompt

PIECE = 64  # tokens of a prompt per call of the engine
PREFILL_SECONDS = 0.005  # of a round, after which the texts that are being generated take their step
MOST_UNTAKEN = 512  # events handed over, beside one delivery, that the event loop has not come to
UNREAD_SECONDS = 0.02  # after which a worker whose texts all wait looks again
GATHER_SECONDS = 0.005  # in which events are gathered after a delivery: a quarter of the time between two pictures
MOST_GATHERED = 256  # events, after which they are handed over at once
STALL_SECONDS = 1.0  # that the worker waits for an event loop which is held up
MOST_SIDE_TEXTS = 32  # slots for the second, third, … texts of replies, beside one slot per reply

Delivery = list[tuple[Reply, list[tuple[int, Event]], Exception | None]]
"""Events of replies, and the errors that ended them."""


class _Running:
    """A text of a reply on its slot."""

    def __init__(self, reply: Reply, number: int, text: Text, slot: int) -> None:
        self.reply, self.number, self.text, self.slot = reply, number, text, slot
        self.scoring: Iterator[list[Scored]] | None = None  # of the prompt, with echo


class _Waiting:
    """A reply with texts that have no slot yet."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.begun = reply, 0

    @property
    def left(self) -> int:
        """Texts that have not begun."""
        return len(self.reply.requests) - self.begun


class Scheduler:
    """A model's worker thread. Submit, wake and end are called on the event loop."""

    def __init__(self, model: LanguageModel, metrics: Metrics, max_streams: int) -> None:
        self._model, self._metrics = model, metrics
        self._most_side = min(MOST_SIDE_TEXTS, max_streams)
        self._free = max_streams + self._most_side
        self._slots = open_slots(model.engine, model.state, self._free)
        self._loop = asyncio.get_running_loop()
        self._news = threading.Condition()
        self._arrived: list[Reply] = []
        self._ending = False
        self._waiting: list[_Waiting] = []
        self._prefilling: deque[_Running] = deque()
        self._decoding: list[_Running] = []
        self._running: set[_Running] = set()  # all that hold a slot
        self._tokens = 0  # drawn in this round
        self._outbox: dict[Reply, list[tuple[int, Event]]] = {}
        self._gathered = 0  # events in it that a reader waits for
        self._due = False  # whether a reply in it has begun or ended
        self._begins = False  # whether a stream in it, or in what was handed over last, has begun
        self._delivered = 0.0  # when events were handed over, by time.monotonic
        self._handed_over: deque[int] = deque()  # events per delivery that the event loop has not come to
        self._alive = False  # whether the thread runs

    def submit(self, reply: Reply) -> None:
        """Generate a reply's texts. A thread that has ended is started again: a reply may have waited for its turn."""
        with self._news:
            self._arrived.append(reply)
            self._news.notify()
            if not self._alive:
                self._alive = True
                name = f"model {self._model.path.name}"
                threading.Thread(target=self._work, name=name, daemon=True).start()

    def wake(self) -> None:
        """Look at the replies: one was closed."""
        with self._news:
            self._news.notify()

    def end(self) -> None:
        """End the thread when the replies under way have ended."""
        with self._news:
            self._ending = True
            self._news.notify()

    def _take(self, delivery: Delivery) -> None:
        """A delivery, on the event loop: the tasks that read it are scheduled before `_taken` is, and run before it."""
        for reply, events, error in delivery:
            reply.put(events, error)
        self._loop.call_soon(self._taken)

    def _taken(self) -> None:
        with self._news:
            self._handed_over.popleft()
            self._news.notify()

    # All that follows runs on the worker thread.

    def _in_pace(self) -> bool:
        """Whether the event loop has come to all deliveries but one, or nearly; to a first token it comes at once,
        or the worker would hold the interpreter meanwhile."""
        if self._begins:
            return not self._handed_over
        return len(self._handed_over) < 2 or sum(self._handed_over) <= MOST_UNTAKEN

    def _unread(self) -> bool:
        """Whether nobody reads the texts that are being generated."""
        return all(running.reply.behind for running in self._decoding)

    def _work(self) -> None:
        while True:
            with self._news:
                while not (self._arrived or self._waiting or self._prefilling or self._decoding):
                    if self._ending:
                        self._alive = False
                        return
                    self._news.wait()
                self._news.wait_for(self._in_pace, STALL_SECONDS)
                self._begins = False
                if self._decoding and not (self._arrived or self._prefilling) and self._unread():
                    self._news.wait(UNREAD_SECONDS)
                arrived, self._arrived = self._arrived, []
            self._waiting += map(_Waiting, arrived)
            try:
                self._let_go()
                self._assign()
                self._draw(*self._computed())
            except Exception as error:  # of the engine, such as a lack of memory: everybody under way hears of it
                self._fail(error)
            self._deliver()

    def _let_go(self) -> None:
        """Free the slots of replies that were closed."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.reply.closed]
        gone = {running for running in [*self._prefilling, *self._decoding] if running.reply.closed}
        if gone:  # looked at once: others may be closed meanwhile
            self._prefilling = deque(running for running in self._prefilling if running not in gone)
            self._decoding = [running for running in self._decoding if running not in gone]
            for running in gone:
                self._release(running)

    def _assign(self) -> None:
        """Begin texts: the first of every reply, and further ones, the replies in turn, on the side slots."""
        if not self._waiting:
            return
        side = sum(running.number > 0 for running in [*self._prefilling, *self._decoding])
        in_turn, kept = deque(self._waiting), []
        while in_turn and self._free:
            waiting = in_turn.popleft()
            if waiting.begun and side >= self._most_side:
                kept.append(waiting)
                continue
            side += waiting.begun > 0
            self._begin(waiting.reply, waiting.begun)
            waiting.begun += 1
            if waiting.left:
                in_turn.append(waiting)
        self._waiting = [*kept, *in_turn]

    def _begin(self, reply: Reply, number: int) -> None:
        request = reply.requests[number]
        try:
            running = _Running(reply, number, Text(request, self._model), self._slots.admit(request.prompt))
        except Exception as error:  # of this request alone
            self._end_with(reply, error)
            return
        self._free -= 1
        self._running.add(running)
        if request.echo:
            running.scoring = self._score(request)
        self._prefilling.append(running)

    def _score(self, request: Generation) -> Iterator[list[Scored]]:
        """The scores of the prompt's tokens, piece by piece, as `LanguageModel` would compute them."""
        tokens, n, cache = np.array(request.prompt, dtype=np.int32), request.logprobs or 0, None
        first = 0 if request.lists_bos else 1
        if not request.weigh:
            yield [Scored(int(token), None, []) for token in tokens[first : first + 1]]
        for start in range(0, len(tokens) - 1, PIECE):
            piece = tokens[start : min(start + PIECE, len(tokens) - 1)]
            logits, cache = self._model.engine.logits(self._model.state, piece, cache)
            if request.weigh:
                yield weigh_prompt(logits, request.prompt, start + 1, request.sampling, n)
                continue
            following = tokens[start + 1 : start + 1 + len(piece)]
            found = score_prompt(logits, following.tolist(), n)
            yield found[first:] if start == 0 else found

    def _computed(self) -> tuple[list[_Running], list[np.ndarray]]:
        """Texts whose next token can be drawn, and the logits (V,) for each: prompts that are done, and a step."""
        ready, rows = self._prefill()
        decoding: list[_Running] = []
        behind: list[_Running] = []
        for running in self._decoding:  # once: a client may catch up meanwhile
            (behind if running.reply.behind else decoding).append(running)
        if decoding:
            self._decoding = behind
            slots, tokens = [one.slot for one in decoding], [one.text.seen[-1] for one in decoding]
            rows.extend(self._slots.step(slots, tokens))
            ready += decoding
        return ready, rows

    def _prefill(self) -> tuple[list[_Running], list[np.ndarray]]:
        """Compute prompts, a piece of each in turn, for a limited time. Returns those that are done."""
        deadline = time.monotonic() + PREFILL_SECONDS
        ready, rows = [], []
        while self._prefilling:
            running = self._prefilling.popleft()
            try:
                if running.scoring and (scores := next(running.scoring, None)) is not None:
                    self._put(running, scores)
                    self._prefilling.append(running)
                elif not running.text.wants_logits:
                    self._put(running, [running.text.finish("length")])
                    self._release(running)
                elif (logits := self._slots.prefill(running.slot, PIECE)) is not None:
                    ready.append(running)
                    rows.append(logits)
                else:
                    self._prefilling.append(running)
            except Exception as error:  # such as a lack of memory for its cache; the other slots are as they were
                self._spoil(running, error)
                self._release(running)
            if time.monotonic() >= deadline:
                break
        return ready, rows

    def _draw(self, texts: Sequence[_Running], logits: Sequence[np.ndarray]) -> None:
        """Draw a token for each of n texts from logits (V,) each, and go on decoding those that have not finished."""
        drawing, rows = [], []
        for running, row in zip(texts, logits, strict=True):
            try:
                rows.append(running.text.shaped(row))
                drawing.append((running, row))
            except Exception as error:
                self._spoil(running, error)
        samplings = [running.text.request.sampling for running, _ in drawing]
        rngs, seen = [running.text.rng for running, _ in drawing], [running.text.seen for running, _ in drawing]
        for (running, row), token in zip(drawing, draw_batch(rows, samplings, rngs, seen), strict=True):
            try:
                events = running.text.accept(token, row)
            except Exception as error:
                self._spoil(running, error)
            else:
                self._put(running, events)
                if isinstance(events[0], Token):
                    self._tokens += 1
                    if not running.reply.begun:
                        self._begun(running.reply)
        for running in texts:
            if running.text.finished:
                self._release(running)
            else:
                self._decoding.append(running)

    def _begun(self, reply: Reply) -> None:
        """A reply has its first token."""
        reply.begun = True
        self._begins |= not reply.whole
        self._metrics.first_token.observe(time.monotonic() - reply.asked)

    def _spoil(self, running: _Running, error: Exception) -> None:
        """An error that a text alone has, such as its constraint's, ends its reply alone."""
        running.text.finished = True
        self._end_with(running.reply, error)

    def _end_with(self, reply: Reply, error: Exception) -> None:
        reply.failed = reply.failed or error
        self._due = True
        self._outbox.setdefault(reply, [])

    def _put(self, running: _Running, events: Sequence[Event]) -> None:
        reply, number = running.reply, running.number
        if events and isinstance(events[-1], Finished):
            reply.unfinished -= 1
            self._due |= not reply.unfinished
        if not reply.whole:
            self._gathered += len(events)
        self._outbox.setdefault(reply, []).extend([(number, event) for event in events])

    def _release(self, running: _Running) -> None:
        self._running.discard(running)
        self._slots.release(running.slot)
        self._free += 1

    def _fail(self, error: Exception) -> None:
        """Give up everything under way."""
        replies = {running.reply for running in self._running} | {waiting.reply for waiting in self._waiting}
        self._prefilling.clear()
        self._decoding, self._waiting = [], []
        for running in list(self._running):
            self._release(running)
        for reply in replies:
            self._end_with(reply, error)

    def _deliver(self) -> None:
        """Hand the events over to the event loop in one call; they wait for more if no reply begins or ends in them."""
        if self._tokens:
            self._metrics.tokens.inc(self._tokens)
            self._tokens = 0
        now = time.monotonic()
        goes_on = self._prefilling or (self._decoding and not self._unread())
        waits = goes_on and not (self._due or self._begins) and self._gathered < MOST_GATHERED
        if waits and now < self._delivered + GATHER_SECONDS:
            return
        delivery = [
            (reply, events, reply.failed)
            for reply, events in self._outbox.items()
            if not reply.whole or not reply.unfinished or reply.failed or reply.closed
        ]
        for reply, _, _ in delivery:
            del self._outbox[reply]
        self._gathered, self._due = 0, False
        if delivery:
            self._delivered = now
            self._handed_over.append(sum(len(events) for _, events, _ in delivery))
            try:
                self._loop.call_soon_threadsafe(self._take, delivery)
            except RuntimeError:  # the loop has ended
                self._handed_over.pop()
