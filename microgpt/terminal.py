"""Text for the terminal: lines on stderr, so that stdout holds results alone, and text made safe to print."""

from __future__ import annotations

import sys

from microgpt.progress import ProgressCallback


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def compiling() -> ProgressCallback:
    """A callback for the compiler that prints its first message, which says how long compiling takes, on stderr."""
    said = False

    def report(name: str, seconds: float | None) -> None:
        nonlocal said
        if not said:
            say(name)
        said = True

    return report


CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """A text without the control characters (C0, DEL, C1) that move a terminal's cursor or change its state."""
    return text.translate(CONTROL)


def for_stdout(text: str) -> str:
    """A model's text for stdout: printable where that is a terminal, else unchanged."""
    return printable(text) if sys.stdout.isatty() else text


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    if seconds < 1:
        return "under a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def count(n: int, noun: str) -> str:
    """'1 layer', '2 layers'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
