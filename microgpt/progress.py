"""The callback of long work outside of training: reading text, learning a tokenizer, compiling kernels."""

from __future__ import annotations

from collections.abc import Callable

# Called with the name of the work, or how far it is, and with the seconds it took (None until it is done).
ProgressCallback = Callable[[str, float | None], None]


def no_progress(message: str, seconds: float | None) -> None:
    """Report nothing."""
