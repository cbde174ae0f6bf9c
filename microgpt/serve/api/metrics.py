"""POST /api/metrics and /api/metrics/live: the curves of runs, thinned, and then as they grow; GET …/baselines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from microgpt.runs import sample_log
from microgpt.runs.folder import RunFolder
from microgpt.runs.history import History
from microgpt.runs.listing import is_run
from microgpt.serve import limits
from microgpt.serve.api.runs import UNKNOWN, Run, facts
from microgpt.serve.catalog import Catalog
from microgpt.serve.errors import Closing, Overloaded, PlainError, internal_error
from microgpt.serve.limits import most
from microgpt.serve.models import in_thread
from microgpt.serve.routes import Call, Events, Route, event
from microgpt.serve.watching import Watching

TICK = 0.4  # seconds between two looks at the files
QUIET = 5.0  # seconds without an event after which a comment keeps the connection alive
GROWN = 400  # points that one event adds to a curve at most
SAMPLES, SAMPLE_CHARS = 40, 4000  # the last samples, and how much of each

Columns: TypeAlias = dict[str, list[float | None]]  # by their names, all of one length, null where a value is missing


class Body(BaseModel):
    """Shared settings of the bodies."""

    model_config = ConfigDict(strict=True, extra="forbid")


class MetricsBody(Body):
    """A run, and the part of its metrics that is wanted: steps after `first`, up to `last`."""

    run: limits.Name
    first: Annotated[int, limits.within("step")] = 0
    last: Annotated[int, limits.within("step")] = most("step")
    points: limits.Points = 1000


class LiveBody(Body):
    """Runs to follow."""

    runs: Annotated[list[limits.Name], limits.length("runs")]
    points: limits.Points = 1000


class Series(BaseModel):
    """Metrics in columns. `training` has step, loss, lr, grad_norm, tokens, seconds; `held_out` step, val_loss,
    bits_per_byte.

    Losses are in nats per token, tokens and seconds are counted from the beginning of the run. The loss's minima and
    maxima are kept where there are more steps than points; `mean` is that of the steps around a point.
    """

    training: Columns
    held_out: Columns
    rows: int  # steps that were logged


class Sample(BaseModel):
    """A text that the model wrote during the training."""

    step: int
    text: str
    final: bool  # whether it is one of those at the end of the run


class LiveEvent(BaseModel):
    """Something new about a run: `history` replaces its curves, `grown` adds to them; `gone`: its folder is missing."""

    run: str
    kind: Literal["history", "grown", "facts", "samples", "gone"]
    series: Series | None = None
    facts: Run | None = None
    samples: list[Sample] | None = None


class Losses(BaseModel):
    """Losses to beat, in nats per token: of a uniform, a unigram and a bigram model of the text of the run."""

    uniform: float | None = None
    unigram: float | None = None  # counts plus one, fitted on the training part
    bigram: float | None = None  # Witten-Bell smoothing, fitted on the training part
    on: Literal["held-out", "training"] | None = None  # the part that they are measured on
    reason: str | None = None  # why they cannot be told


async def metrics(call: Call) -> Series:
    """A run's metrics, thinned. Raises ApiError for an unknown run."""
    body: MetricsBody = call.body
    catalog, watching = call.service.models.catalog, call.service.watching

    def found() -> Series:
        with watching.history(catalog.path(body.run)) as history:
            return _series(history, body.points, body.first, body.last)

    return await in_thread(found)


async def live(call: Call) -> Events:
    """All metrics, thinned, then what comes. Raises ApiError for an unknown run, Overloaded for a watcher too many."""
    body: LiveBody = call.body
    catalog, watching = call.service.models.catalog, call.service.watching
    if call.service.admission.closing:
        raise Closing
    if watching.watchers >= most("watchers"):
        raise Overloaded("too many pages watch; close one", 10)
    names = list(dict.fromkeys(body.runs))
    await in_thread(lambda: [catalog.path(name) for name in names])
    return Events(_follow(call, [Follower(name, catalog, watching, body.points) for name in names]))


async def _follow(call: Call, followers: list[Follower]) -> AsyncIterator[bytes]:
    watching = call.service.watching
    watching.watchers += 1
    unheard = 0.0
    try:
        while not call.service.admission.closing:
            for new in await in_thread(lambda: [each for follower in followers for each in follower.poll()]):
                unheard = 0.0
                yield event(new.model_dump_json(exclude_unset=True).encode())
            if unheard >= QUIET:
                unheard = 0.0
                yield b": nothing new\n\n"
            await asyncio.sleep(TICK)
            unheard += TICK
        yield event(PlainError(error=Closing().message).model_dump_json().encode())
    except Exception:
        yield event(PlainError(error=internal_error("/api/metrics/live").message).model_dump_json().encode())
    finally:
        watching.watchers -= 1


class Follower:
    """One run as one watcher has seen it so far."""

    def __init__(self, name: str, catalog: Catalog, watching: Watching, points: int) -> None:
        self._name, self._catalog, self._watching, self._points = name, catalog, watching, points
        self._path = Path()
        self._generation: int | None = None
        self._steps = (-1.0, -1.0)  # the last that were sent, of training and of the held-out part
        self._facts: Any = None
        self._samples: Any = None
        self._gone = False

    def poll(self) -> Iterator[LiveEvent]:
        """What is new since the last call. Reads files."""
        self._path = self._catalog.place(self._name)
        if not is_run(self._path):
            if not self._gone:
                self._gone, self._generation = True, None
                yield LiveEvent(run=self._name, kind="gone")
            return
        self._gone = False
        told = facts(self._name, self._watching.summary(self._path))
        if told != self._facts:
            self._facts = told
            yield LiveEvent(run=self._name, kind="facts", facts=Run(**told))
        if series := self._new_series():
            yield series
        yield from self._new_samples()

    def _new_series(self) -> LiveEvent | None:
        with self._watching.history(self._path) as history:
            anew = history.generation != self._generation
            after = (-1.0, -1.0) if anew else self._steps
            tables = (history.training, history.held_out)
            now = tuple(table.columns["step"][-1] if len(table) else -1.0 for table in tables)
            if now == self._steps and not anew:
                return None
            most = self._points if anew else self._share(now[0])
            columns = [table.points(most, first) for table, first in zip(tables, after, strict=True)]
            self._generation, self._steps = history.generation, (now[0], now[1])
            series = Series(training=columns[0], held_out=columns[1], rows=history.training.rows)
            return LiveEvent(run=self._name, kind="history" if anew else "grown", series=series)

    def _share(self, step: float) -> int:
        """How many points the steps since the last look may have, for about as many per step as the rest has."""
        return min(GROWN, max(16, round(2 * self._points * (1 - self._steps[0] / max(1.0, step)))))

    def _new_samples(self) -> Iterator[LiveEvent]:
        file = RunFolder(self._path).samples_file
        try:
            found = file.stat()
            signature = (found.st_ino, found.st_size, found.st_mtime_ns)
            if signature == self._samples:
                return
            last = sample_log.last(file, SAMPLES)
        except OSError:
            return
        self._samples = signature
        told = [Sample(step=each.step, text=each.text[:SAMPLE_CHARS], final=each.final) for each in last]
        yield LiveEvent(run=self._name, kind="samples", samples=told)


def _series(history: History, points: int, first: float, last: float) -> Series:
    tables = history.training, history.held_out
    training, held_out = (table.points(points, first, last) for table in tables)
    return Series(training=training, held_out=held_out, rows=history.training.rows)


async def losses(call: Call) -> Losses:
    """The losses to beat. Raises ApiError for an unknown run."""
    catalog, name = call.service.models.catalog, call.request.path_params["name"]
    watching = call.service.watching
    path, found = await in_thread(lambda: (path := catalog.path(name), watching.baselines(path)))
    if not isinstance(found, str):
        return Losses(**vars(found))
    config = (await in_thread(lambda: watching.summary(path))).config
    vocabulary = config.model.vocab_size if config else None
    return Losses(uniform=math.log(vocabulary) if vocabulary else None, reason=found)


ROUTES = [
    Route("POST", "/api/metrics", metrics, "A run's metrics.", body=MetricsBody, answer=Series, statuses=UNKNOWN),
    Route(
        "POST",
        "/api/metrics/live",
        live,
        "Runs as they are trained: events, without an end.",
        body=LiveBody,
        events=(LiveEvent, PlainError),
        done=False,
        statuses=UNKNOWN,
    ),
    Route("GET", "/api/runs/{name}/baselines", losses, "Losses to beat.", answer=Losses, statuses=UNKNOWN),
]
