"""The models of a service, by name: loaded when they are first used, the least recently used one dropped."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from microgpt.errors import MicrogptError
from microgpt.inference.chat import ChatModel, load
from microgpt.inference.language_model import LanguageModel
from microgpt.serve.admission import Admission
from microgpt.serve.errors import ApiError, Closing
from microgpt.serve.generation import Generation
from microgpt.serve.metrics import Metrics
from microgpt.serve.scheduler import Reply, Scheduler

Loaded = TypeVar("Loaded")


class ServedModel:
    """A loaded model with its worker thread."""

    def __init__(
        self, name: str, model: LanguageModel, admission: Admission, metrics: Metrics, max_streams: int
    ) -> None:
        self.name, self.model = name, model
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
    """The models that a service was given. The first one is the default."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        admission: Admission,
        metrics: Metrics,
        *,
        max_streams: int,
        max_models: int,
        engine: dict[str, Any],
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.paths = dict(paths)
        self.default = next(iter(self.paths))
        self.created = int(time.time())
        self._admission, self._metrics, self._max_streams = admission, metrics, max_streams
        self._max_models, self._engine, self._log = max_models, engine, log
        self._loaded: dict[str, ServedModel] = {}  # the least recently used first
        self._locks = {name: asyncio.Lock() for name in self.paths}

    async def get(self, name: str | None = None) -> ServedModel:
        """A model by name, the default one without. Raises ApiError for an unknown name or a damaged folder."""
        name = self.default if name is None else name
        if name not in self.paths:
            raise ApiError(404, f"the model {name!r} does not exist", param="model", code="model_not_found")
        if name not in self._loaded:
            async with self._locks[name]:
                if name not in self._loaded:
                    await self._load(name)
        found = self._loaded[name] = self._loaded.pop(name)
        return found

    async def _load(self, name: str) -> None:
        try:
            model = await in_thread(functools.partial(load, self.paths[name], **self._engine))
        except MicrogptError as error:
            raise ModelError(f"the model {name!r} cannot be loaded", error) from error
        if model.selection and not model.selection.is_last:
            self._log(f"{name}: using {model.selection}")
        while len(self._loaded) >= self._max_models:
            self._loaded.pop(next(iter(self._loaded))).retire()
        self._loaded[name] = ServedModel(name, model, self._admission, self._metrics, self._max_streams)

    @property
    def ready(self) -> bool:
        """Whether a model is loaded."""
        return bool(self._loaded)

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


class ModelError(ApiError):
    """A model that cannot be loaded; `cause` is for the operator, not for clients."""

    def __init__(self, message: str, cause: MicrogptError) -> None:
        super().__init__(500, message, code="model_unavailable")
        self.cause = cause
