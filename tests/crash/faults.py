"""A stand-in for the module `os` that kills the process, or fails, at the n-th call that can change the disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from microgpt import files

CALLS = {"open", "write", "fsync", "close", "replace", "rename", "link", "mkdir", "unlink", "rmdir"}
ERRNOS = ["ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EMFILE", "EINTR"]
Act = Callable[[str, tuple[Any, ...]], Any]


class Shim:
    """Passes every call on, but for the `at`-th of CALLS, which `act` answers. `trace` is what was called."""

    def __init__(self, at: int = -1, act: Act | None = None) -> None:
        self.at, self.act, self.trace = at, act, list[tuple[str, tuple[Any, ...]]]()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.trace.append((name, args))
            if len(self.trace) - 1 == self.at and self.act:
                answer = self.act(name, args)
                if answer is not None:
                    return answer
            return real(*args, **kwargs)

        return call


def install(shim: Shim) -> None:
    """For good: in a process that is to die."""
    files.os = shutil.os = shim  # type: ignore[attr-defined, assignment]


@contextmanager
def installed(shim: Shim) -> Iterator[Shim]:
    """Every write of microgpt goes through the shim."""
    before = files.os, shutil.os
    install(shim)
    try:
        yield shim
    finally:
        files.os, shutil.os = before  # type: ignore[attr-defined]


def die(name: str, args: tuple[Any, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_halfway(name: str, args: tuple[Any, ...]) -> None:
    if name == "write":
        os.write(args[0], args[1][: len(args[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def fail(code: str) -> Act:
    """Answer with an error; a close still closes, as the system's does."""

    def act(name: str, args: tuple[Any, ...]) -> None:
        if name == "close":
            os.close(args[0])
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    return act


def short(name: str, args: tuple[Any, ...]) -> int | None:
    """Write only a part."""
    return os.write(args[0], args[1][: max(1, len(args[1]) // 3)]) if name == "write" else None
