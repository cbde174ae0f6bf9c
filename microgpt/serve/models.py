"""The models of a service, by name: loaded when they are first used, the least recently used one dropped."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from microgpt.errors import MicrogptError
from microgpt.inference.chat import ChatModel, load_all
from microgpt.inference.language_model import LanguageModel
from microgpt.serve.admission import Admission
from microgpt.serve.catalog import Catalog, Found
from microgpt.serve.errors import ApiError, Closing, ModelError
from microgpt.serve.generation import Generation
from microgpt.serve.metrics import Metrics
from microgpt.serve.reply import Reply
from microgpt.serve.scheduler import Scheduler

Loaded = TypeVar("Loaded")


class ServedModel:
    """A loaded model with its worker thread."""

    def __init__(
        self, name: str, model: LanguageModel, admission: Admission, metrics: Metrics, max_streams: int
    ) -> None:
        self.name, self.model = name, model
        self.kept: dict[str, Any] = {}  # by the name of its owner, for as long as the model is loaded
        self._admission = admission
        self._scheduler = Scheduler(model, metrics, max_streams)
        self._open: set[Reply] = set()

    @property
    def chat(self) -> ChatModel | None:
        """The model as one that answers messages, if it is one."""
        return self.model if isinstance(self.model, ChatModel) else None

    async def submit(self, requests: Sequence[Generation], client: str, *, whole: bool = False) -> Reply:
        """Wait for a turn and begin a reply of one or several texts. Raises Overloaded.

        `client` is whom to be fair to; `whole` hands the events over at once when all texts have finished, which costs
        less. Close the reply: `async with await model.submit(…) as reply: async for …`.
        """
        asked = time.monotonic()
        await self._admission.enter(client)
        began = time.monotonic()

        def closed(unfinished: bool) -> None:
            self._open.discard(reply)
            if unfinished:
                self._scheduler.wake()
            self._admission.leave(time.monotonic() - began)

        reply = Reply(requests, closed, asked=asked, whole=whole)
        self._open.add(reply)
        self._scheduler.submit(reply)
        return reply

    def interrupt(self) -> None:
        """Let every reply under way end with Closing."""
        for reply in list(self._open):
            reply.interrupt(Closing())

    def retire(self) -> None:
        """Take no more replies; the worker ends after those under way."""
        self._scheduler.end()


class Models:
    """The models of a catalog that are held in memory, by NAME or NAME@STEP."""

    def __init__(
        self,
        catalog: Catalog,
        admission: Admission,
        metrics: Metrics,
        *,
        max_streams: int,
        max_models: int,
        engine: dict[str, Any],
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.catalog = catalog
        self.created = int(time.time())
        self.ready = False  # whether the default model is loaded, or none is there to load
        self._admission, self._metrics, self._max_streams = admission, metrics, max_streams
        self._max_models, self._engine, self._log = max_models, engine, log
        self._loaded: dict[str, ServedModel] = {}  # the least recently used first
        self._locks: dict[str, asyncio.Lock] = {}

    async def start(self) -> None:
        """Load the model that was given first, if it is there by now; of a folder of runs each is loaded when used.

        Raises ModelError for a damaged folder.
        """
        if self.catalog.folder_is_default:
            self.ready = True
            return
        try:
            await self.get()
        except ModelError:
            raise
        except ApiError:
            self.ready = True  # a run without a checkpoint

    async def get(self, name: str | None = None) -> ServedModel:
        """A model by name, the default one without; see Catalog.find. Raises ApiError, ModelError for a damaged one."""
        if name is None and not self.catalog.folder_is_default:
            name = self.catalog.default()
        if name is None or name not in self._loaded:
            found = await in_thread(lambda: self.catalog.find(self.catalog.default() if name is None else name))
            name = found.name
            if name not in self._loaded:
                async with self._locks.setdefault(name, asyncio.Lock()):
                    if name not in self._loaded:
                        await self._load(found)
                        self.ready = True
        model = self._loaded[name] = self._loaded.pop(name)
        return model

    async def _load(self, found: Found) -> None:
        name, paths, step = found
        try:
            options = self._engine | ({} if step is None else {"checkpoint": step})
            model, notes = await in_thread(functools.partial(load_all, paths, **options))
        except MicrogptError as error:
            raise ModelError(f"the model {name!r} cannot be loaded", error) from error
        for note in notes:
            self._log(f"{name}: {note}")
        if step is None and model.selection and not model.selection.is_last:
            self._log(f"{name}: using {model.selection}")
        while len(self._loaded) >= self._max_models:
            self._loaded.pop(next(iter(self._loaded))).retire()
        self._loaded[name] = ServedModel(name, model, self._admission, self._metrics, self._max_streams)

    def interrupt(self) -> None:
        """Let every reply under way end with Closing."""
        for model in self._loaded.values():
            model.interrupt()


async def in_thread(function: Callable[[], Loaded]) -> Loaded:
    """Call a function on a thread that does not hold up the end of the process, as an executor's would."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[Loaded] = loop.create_future()

    def settle(result: Loaded | None, error: BaseException | None) -> None:
        if not loaded.done():
            loaded.set_exception(error) if error else loaded.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=call, name="load", daemon=True).start()
    return await loaded


async def in_turn(turn: asyncio.Lock | asyncio.Semaphore, function: Callable[[], Loaded]) -> Loaded:
    """Call a function on a thread when its turn comes, which lasts until it has ended, also if its client has left."""
    await turn.acquire()
    task = asyncio.ensure_future(in_thread(function))

    def ended(done: asyncio.Future[Loaded]) -> None:
        turn.release()
        if not done.cancelled():
            done.exception()  # nobody may be there to take it

    task.add_done_callback(ended)
    return await asyncio.shield(task)
