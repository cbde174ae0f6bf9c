"""The process: a socket, an event loop, the models, and an end that every client hears of."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from starlette.types import ASGIApp

from microgpt.errors import MachineError
from microgpt.serve.admission import Admission
from microgpt.serve.app import application, routes
from microgpt.serve.catalog import Catalog
from microgpt.serve.ending import CUT_SECONDS, GRACE_SECONDS, Ending
from microgpt.serve.errors import ModelError
from microgpt.serve.guard import Guard, is_loopback
from microgpt.serve.limits import most
from microgpt.serve.log import Log
from microgpt.serve.metrics import NO_ROUTE, Metrics, Observed
from microgpt.serve.models import Models
from microgpt.serve.openapi import document
from microgpt.serve.protocol import Protocol
from microgpt.serve.service import Service
from microgpt.serve.trainings import Trainings

TASK_SECONDS = 0.2  # in which the tasks of connections that were cut end
SEND_BYTES = 1 << 18  # of an answer that the system keeps until a client has them; its own choice is MiBs
UNSENT_BYTES = 1 << 14  # of these, what it takes before a client has room for them
OTHER_FILES = 64  # open beside connections
SWITCH_SECONDS = 0.0005  # how long a worker thread holds the interpreter while the event loop waits for it


@dataclass
class Settings:
    """What the command line says."""

    models: dict[str, tuple[Path, ...]]  # by name; several are an ensemble
    runs: Path | None = None  # a folder of runs
    host: str = "127.0.0.1"
    port: int = 8080
    max_streams: int = 64
    queue: int = 256
    max_models: int = 2
    api_key: str | None = None
    allow_origin: list[str] = field(default_factory=list)
    engine: dict[str, Any] = field(default_factory=dict)


class Server(uvicorn.Server):
    """uvicorn's server; signals are the caller's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """Leave the signals alone: uvicorn would raise them again at its end."""
        yield

    async def end(self, running: asyncio.Task[None], seconds: float) -> None:
        """Close connections; those that do not take their last event in time are cut. `running` is the server's."""
        self.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]  # it may be a fraction
        self.should_exit = True
        await running
        if self.server_state.tasks:  # that were cancelled just now
            await asyncio.wait(self.server_state.tasks, timeout=TASK_SECONDS)


def run(settings: Settings, ready: Callable[[str], None]) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C, which end the process. `ready` gets the address when requests are answered.

    Raises MachineError for an address that cannot be used, and as LanguageModel.open for the first model.
    """
    log = Log()
    logging.getLogger().addHandler(log)
    for name in ("uvicorn", "asyncio"):  # they warn of every client that hangs up
        logging.getLogger(name).setLevel(logging.ERROR)
    listener = bind(settings.host, settings.port)
    sys.setswitchinterval(SWITCH_SECONDS)
    with contextlib.closing(listener), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(settings, listener, log, ready)).leave()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, which writes and wakes in less time; else asyncio's own."""
    try:
        import uvloop
    except ImportError:  # as on Windows
        return None
    return uvloop.new_event_loop


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises MachineError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on: the end of an answer would wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        with contextlib.suppress(AttributeError, OSError):  # else what nobody reads is generated until all are full
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise MachineError(f"--host {host} --port {port}: {error.strerror or error}; choose another port") from None
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(settings: Settings, listener: socket.socket, log: Log, ready: Callable[[str], None]) -> Ending:
    """Serve on the running loop until a signal; the process may be left then."""
    ending = Ending(log)
    admission = Admission(settings.max_streams, settings.queue)
    table = routes()
    metrics = Metrics(admission, sorted({route.shown for route in table}))
    models = Models(
        Catalog(settings.models, settings.runs),
        admission,
        metrics,
        max_streams=settings.max_streams,
        max_models=settings.max_models,
        engine=settings.engine,
        log=log.line,
    )
    trusted = settings.api_key is not None or is_loopback(settings.host)
    service = Service(
        models,
        admission,
        metrics,
        trainings=Trainings(settings.runs) if trusted else None,
        openapi=document(table, with_key=settings.api_key is not None),
    )
    public = [route.path for route in table if route.public]

    def guarded(app: ASGIApp) -> ASGIApp:
        guard = Guard(app, host=settings.host, origins=settings.allow_origin, api_key=settings.api_key, public=public)
        return Observed(guard, metrics, log.line)

    protocol = functools.partial(
        Protocol, most_connections=_connections(), refused=functools.partial(metrics.count, NO_ROUTE)
    )
    config = uvicorn.Config(
        application(service, guarded),
        http=protocol,  # type: ignore[arg-type]  # a class with some arguments given
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=most("idle_seconds"),
    )
    server = Server(config)
    where = address(listener)
    with ending.on_signal():
        running = asyncio.create_task(server.serve([listener]))
        asked = asyncio.create_task(ending.asked.wait())
        loading = asyncio.create_task(models.start())
        try:
            await asyncio.wait([loading, asked], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading
                ready(where)
            await asked
        except ModelError as error:
            raise error.cause from None
        finally:
            loading.cancel()  # else a model that fails to load after the signal ends in a traceback
            await asyncio.gather(loading, return_exceptions=True)
            admission.close()
            await end(admission, models, ending)
            await server.end(running, ending.left(CUT_SECONDS))
    return ending


def _connections() -> int:
    """How many connections this process can hold; raises its own limit of open files as far as the system lets it."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most("connections") + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        most("connections") if soft == resource.RLIM_INFINITY else min(most("connections"), max(1, soft - OTHER_FILES))
    )


async def end(admission: Admission, models: Models, ending: Ending) -> None:
    """Let replies under way end, for a while by themselves."""
    while admission.active and ending.left(GRACE_SECONDS):
        await asyncio.sleep(0.02)
    models.interrupt()
