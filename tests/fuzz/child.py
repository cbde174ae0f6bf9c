"""A command in a fork of this process, bounded in time and memory, and how it ended."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from microgpt.cli import main
from microgpt.config import Config

DEADLINE = 10.0  # seconds
MEMORY = 1 << 30  # bytes


COMMANDS = "train generate chat finetune eval info export import_ data tokenizer bench"
LOADED = [f"commands.{name}" for name in COMMANDS.split()]
LOADED += ["training.train", "training.resume", "inference.chat", "data.scrape.crawl", "engines.manual"]
LOADED += ["formats.imports", "formats.safetensors", "formats.kgx", "formats.hf", "tokenizers.bpe_train"]
LOADED += ["tokenizers.char", "tokenizers.bpe", "tokenizers.word", "training.bench", "serve.server"]


LIBRARIES = "safetensors.numpy tomllib tomli_w platformdirs difflib filelock tokenizers".split()
LIBRARIES += ["rich.table", "rich.progress"]


def load() -> None:
    """Import here what nearly every case needs, which then costs a fork instead of an interpreter's start."""
    for name in (*LIBRARIES, *(f"microgpt.{name}" for name in LOADED)):
        importlib.import_module(name)
    Config.from_dict({})
    gc.collect()
    gc.freeze()  # else a child's collector writes to each object, and so copies all memory


@dataclass(frozen=True)
class Ended:
    """How a command ended. `asked` tells that SIGTERM was sent, `killed` that even that did not end it."""

    status: int
    out: str
    err: str
    seconds: float
    cpu_seconds: float
    memory: int
    asked: bool
    killed: bool


def run(words: Sequence[str], folder: Path, log: Path, patience: float, deadline: float = DEADLINE) -> Ended:
    """Run the command in `folder`; ask it to end after `patience` seconds, and kill it after `deadline`."""
    log.mkdir(exist_ok=True)
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the child uses none of them
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of a child that cannot handle it yet
        inherited = _resident()
        pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    else:
        _child(words, folder, log)
    asked = killed = False
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        elapsed = time.monotonic() - start
        if found:
            break
        if elapsed > deadline and not killed:
            killed = True
            os.kill(pid, signal.SIGKILL)
        elif elapsed > patience and not asked:
            asked = True
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # its own children
    scale = 1 if sys.platform == "darwin" else 1024
    return Ended(
        os.waitstatus_to_exitcode(status),
        (log / "out").read_bytes().decode("utf-8", "replace"),
        (log / "err").read_bytes().decode("utf-8", "replace"),
        elapsed,
        usage.ru_utime + usage.ru_stime,
        max(0, usage.ru_maxrss * scale - inherited),
        asked,
        killed,
    )


def _child(words: Sequence[str], folder: Path, log: Path) -> NoReturn:
    status: Any = 99
    try:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))  # until the command's own handler
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.setsid()
        faulthandler.disable()  # pytest's; the status tells of a crash
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.update(MICROGPT_CACHE_DIR=str(folder / "cache"), MICROGPT_DATA_DIR=str(folder), COLUMNS="100")
        warnings.resetwarnings()  # those that pytest makes errors
        # As Python does by default: a signal may come between the opening of a file and the `with` that closes it.
        warnings.simplefilter("ignore", ResourceWarning)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _limit_memory()
        _cut_the_network()
        status = main(words)
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status if isinstance(status, int) else 1)


def _resident() -> int:
    """The bytes that a fork begins with, which are no case's: other tests of this process took them."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _limit_memory() -> None:
    """One GiB more than the fork began with, so that a case that takes more cannot end other processes."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _cut_the_network() -> None:
    def refused(*args: Any, **options: Any) -> Any:
        raise ConnectionRefusedError("the fuzz has no network")

    def unknown(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "the fuzz has no network")

    socket.socket.connect = refused  # type: ignore[method-assign]
    socket.getaddrinfo = unknown
