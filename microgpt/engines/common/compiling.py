"""The just-in-time compiler: whether it is installed and works, and the callbacks called while it compiles."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from microgpt.errors import MachineError
from microgpt.progress import ProgressCallback

listeners: list[ProgressCallback] = []


def report(message: str, seconds: float | None) -> None:
    """Call every listener. The first message of a compilation says how long all of it takes."""
    for listener in listeners:
        listener(message, seconds)


@contextmanager
def watch_compiler(progress: ProgressCallback) -> Iterator[None]:
    """Within the block, `progress` is called for each kernel when its compilation begins and when it is done.

    Kernels that come from the cache on disk are not compiled, so they are not reported.
    """
    listeners.append(progress)
    try:
        yield
    finally:
        listeners.remove(progress)


def compiler() -> dict[str, Any]:
    """Numba's version, and whether it compiles here (NUMBA_DISABLE_JIT, or a broken install, would not tell)."""
    if not importlib.util.find_spec("numba"):
        return {"numba": None, "compiles": False}
    import numba

    twice = numba.njit(lambda x: x + x)
    compiles = twice(21) == 42 and bool(getattr(twice, "signatures", ()))
    return {"numba": numba.__version__, "compiles": compiles}


def verify_compiler() -> None:
    """Raise MachineError where Numba is installed, but runs Python instead of machine code."""
    found = compiler()
    if found["numba"] and not found["compiles"]:
        raise MachineError(
            f"Numba {found['numba']} does not compile here; unset NUMBA_DISABLE_JIT, or reinstall numba", "E_JIT"
        )
