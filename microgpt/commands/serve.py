"""microgpt serve"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microgpt import files
from microgpt.commands import Switch
from microgpt.commands.flags import EngineFlags, Flags, require
from microgpt.errors import MachineError, UsageError, install
from microgpt.runs import listing
from microgpt.signals import can_start_threads
from microgpt.terminal import output


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """A signal before the service listens ends it with status 0 too: nothing is under way."""
    try:
        yield
    except KeyboardInterrupt:
        if not can_start_threads():  # OpenBLAS raised it
            raise


@ended_by_signal()
def serve(
    run: Path | None = None,
    *,
    model: Annotated[list[str] | None, Parameter(negative="")] = None,
    max_models: int = 4,
    host: str = "127.0.0.1",
    port: int | None = None,
    api_key_file: Path | None = None,
    api_key: str | None = None,
    allow_origin: Annotated[list[str] | None, Parameter(negative="")] = None,
    max_streams: int = 64,
    queue: int = 256,
    insecure: Switch = False,
    engine: Annotated[EngineFlags, Flags] = EngineFlags(),
) -> None:
    """Serve models over HTTP: muchq's routes and OpenAI's.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder: the default model; or a folder of runs, where new ones appear as they are
        made (else the environment's MODEL_DIR).
    model
        Serve another model as NAME=RUN, or several as one as NAME=RUN,RUN with the mean of their probabilities; may be
        given several times.
    max_models
        Models held in memory; the least recently used one is dropped for another.
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one (default: the environment's PORT, else 8080).
    api_key_file
        File with the key that clients must send (default: the environment's MICROGPT_API_KEY).
    api_key
        The key itself; other users of this machine can see it.
    allow_origin
        Origin of web pages that may use the service; may be given several times.
    max_streams
        Replies generated at a time.
    queue
        Requests that wait for their turn; further ones are refused.
    insecure
        Listen on an address that other machines reach, without a key.
    """
    for flag, value, most in (
        ("--max-models", max_models, 1024),
        ("--max-streams", max_streams, 4096),
        ("--queue", queue, 65536),
    ):
        require(flag, value, flag != "--queue", most)
    chosen = _port(port)
    models, runs = _models(run, model or [])
    key = _api_key(api_key_file, api_key)
    try:
        from microgpt.serve import guard, server
    except ModuleNotFoundError as error:
        raise MachineError(f"microgpt serve needs {error.name}, which is not installed; {install('serve')}") from None
    for origin in allow_origin or []:
        if not guard.is_origin(origin):
            raise UsageError(f"--allow-origin {origin}: expected scheme://host or scheme://host:port")
    if not (key or insecure or guard.is_loopback(host)):
        raise UsageError(
            f"--host {host}: other machines could use the service; give it a key with --api-key-file, or add --insecure"
        )
    settings = server.Settings(
        models=models,
        runs=runs,
        host=host,
        port=chosen,
        max_streams=max_streams,
        queue=queue,
        max_models=max_models,
        api_key=key,
        allow_origin=allow_origin or [],
        engine=vars(engine),
    )
    server.run(settings, lambda where: output(f"listening on {where}", flush=True))


def _api_key(file: Path | None, given: str | None) -> str | None:
    """The key of a file, the flag or the environment. Raises UsageError for two, or for one that no header can hold."""
    if file is not None and given is not None:
        raise UsageError("--api-key-file and --api-key: give one of them")
    if file is not None:
        with files.readable(f"--api-key-file {file}", kind=UsageError):
            where, key = f"--api-key-file {file}", files.read_bytes(file, 4096).decode("utf-8", "replace").strip()
    elif given is not None:
        where, key = "--api-key", given
    elif "MICROGPT_API_KEY" in os.environ:
        where, key = "MICROGPT_API_KEY", os.environ["MICROGPT_API_KEY"]
    else:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{where}: must be a key of printable ASCII characters without spaces")
    return key


def _port(given: int | None) -> int:
    """The port of the flag, else of the environment, else 8080. Raises UsageError."""
    text, flag = (os.environ.get("PORT") or "8080", "PORT") if given is None else (str(given), "--port")
    try:
        port = int(text)
    except ValueError:
        raise UsageError(f"{flag}: must be a number, got {text!r}") from None
    require(flag, port, 0, 65535)
    return port


def _models(run: Path | None, named: list[str]) -> tuple[dict[str, tuple[Path, ...]], Path | None]:
    """The folders of the models by name, the default one first, and the folder of runs, if RUN is one.

    Raises UsageError.
    """
    models: dict[str, tuple[Path, ...]] = {}
    runs = None
    default = run or (Path(os.environ["MODEL_DIR"]) if os.environ.get("MODEL_DIR") else None)
    if default and listing.is_folder_of_runs(default):
        runs = default
    elif default:
        models[os.path.basename(os.path.realpath(default)) or "model"] = (default,)
    for text in named:
        name, equals, path = text.partition("=")
        members = [path] if os.path.exists(path) else path.split(",")  # a folder's name may have a comma
        if not (name and equals and all(members)):
            raise UsageError(f"--model {text}: expected NAME=RUN or NAME=RUN,RUN")
        if name in models:
            raise UsageError(f"--model {text}: there is a model {name!r} already; choose another name")
        models[name] = tuple(map(Path, members))
    if not (models or runs):
        raise UsageError("serve: RUN is missing; name a run, a model folder or a folder of runs")
    return models, runs
