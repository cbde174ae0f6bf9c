"""The errors a user can meet: one line that says what, where, what was expected and what to do.

Each family has its exit status, so that a script can tell a typing mistake from a full disk; each error has a
stable code, so that a program can tell them apart without reading the sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MicrogptError(Exception):
    """An error that a user can correct. `str(error)` is the one line to show."""

    status = 1
    code = "E_ERROR"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        if code:
            self.code = code


class UsageError(MicrogptError):
    """An invalid flag, name or configuration key."""

    status = 2
    code = "E_USAGE"


class DataError(MicrogptError):
    """An unusable text, data set or prompt."""

    status = 3
    code = "E_DATA"


class CheckpointError(MicrogptError):
    """A model or run folder that is missing, damaged, of another program or of another run."""

    status = 4
    code = "E_CHECKPOINT"


class MachineError(MicrogptError):
    """The disk, the memory, a permission or a missing optional part."""

    status = 5
    code = "E_MACHINE"


INFERENCE_ONLY = "--dtype int8 is for generate, chat, eval and serve; train in float32, float64 or bfloat16"
NOT_FINITE = "the model's logits are not finite: its weights are too large; use an earlier checkpoint"


class NumericError(MicrogptError):
    """A loss or a gradient that is not finite."""

    status = 6
    code = "E_NUMERIC"


class Stopped(MicrogptError):
    """A signal ended the run after its state was saved; the status is 128 + the signal's number."""

    code = "E_STOPPED"

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


def install(extra: str) -> str:
    """The remedy for a missing optional part. From a checkout, since PyPI's `microgpt` is another project."""
    return f"run pip install -e '.[{extra}]' in the microgpt folder"


def require_module(user: str, module: str, extra: str) -> None:
    """Raise MachineError where a library is missing that `user` needs; `extra` installs it."""
    from importlib.util import find_spec

    if not find_spec(module):
        raise MachineError(f"{user} needs {module}, which is not installed; {install(extra)}")


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """The hint for a mistyped name: 'did you mean …?', or all names if none is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}"
