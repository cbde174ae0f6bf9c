"""All text that reaches a terminal: results on stdout, messages on stderr, tables and coloured tokens.

Names, paths, keys and texts are of others. All of them pass through `printable`: no character of theirs moves a
terminal's cursor, changes its state or turns the direction of writing, and rich reads none of them as markup. No other
module prints (tests/test_terminal.py). Where stdout is no terminal, results are written unchanged.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from microgpt import json_text
from microgpt.progress import ProgressCallback

if TYPE_CHECKING:
    from rich.text import Text

# C0 but tab and line end, DEL and C1; marks of direction, line separators; halves of characters, which no stream takes.
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"
)


LONG_SAMPLE = 120  # characters, more than a line of most terminals
SEPARATOR = "-" * 40  # between long samples


def printable(text: str) -> str:
    """A text whose control characters are escaped as Python writes them."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str, *, lines: bool = False) -> None:
    """Print a message on stderr: one line, whose line ends are escaped, unless it may have several `lines`."""
    text = printable(text)
    print(text if lines else text.replace("\n", "\\n"), file=sys.stderr, flush=True)


def has_reader() -> bool:
    """Whether a person sees what is said."""
    return sys.stderr.isatty()


def output(text: object, end: str = "\n", *, flush: bool = False) -> None:
    """Print a result on stdout: printable where that is a terminal, else unchanged."""
    print(printable(str(text)) if sys.stdout.isatty() else str(text), end=end, flush=flush)


class SampleWriter:
    """Prints samples on stdout, piece by piece: one per line, with a line between them once one of them was long."""

    def __init__(self) -> None:
        self.long = False

    def write(self, pieces: Iterable[str], *, live: bool = False) -> None:
        """Print one sample; `live` shows each piece at once."""
        if self.long:
            output(SEPARATOR)
        length = 0
        for piece in pieces:
            output(piece, end="", flush=live)
            length += len(piece)
            self.long = self.long or "\n" in piece or length > LONG_SAMPLE
        output("")


def output_exactly(text: str) -> None:
    """Write a text on stdout without a line end, its own line ends unchanged; for a terminal made printable."""
    sys.stdout.flush()
    shown = printable(text) + "\n" * (not text.endswith("\n")) if sys.stdout.isatty() else text
    sys.stdout.buffer.write(shown.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def flush() -> None:
    """Hand over what was printed, where anybody takes it still."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def output_json(value: Any) -> None:
    """Print a value as one line of JSON. A number that is not finite is null, and control characters are escaped."""
    line = json_text.dumps(json_text.finite(value))
    print(CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line), flush=True)


def output_table(
    columns: Iterable[Mapping[str, Any]],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    width: int | None = None,
    expand: bool = False,
) -> None:
    """Print a table on stdout. A column has the options of rich's `add_column`; without a header none has one."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_cell(title) if title else None, title_justify="left", box=None, pad_edge=False, expand=expand)
    for column in columns:
        table.add_column(**column)
    table.show_header = any(column.header for column in table.columns)
    for row in rows:
        table.add_row(*map(_cell, row))
    Console(highlight=False, width=width).print(table)


def _cell(value: object) -> Text:
    from rich.text import Text

    return Text(printable(str(value)))


COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")


def output_coloured(pieces: Sequence[str]) -> None:
    """Print pieces of a text on stdout, each in another colour, or where there are none with | between them."""
    from rich.console import Console
    from rich.text import Text

    console, line = Console(highlight=False), Text()
    for i, piece in enumerate(pieces):
        line.append(printable(piece), COLOURS[i % len(COLOURS)])
        if not console.color_system and i + 1 < len(pieces):
            line.append("|")
    console.print(line, soft_wrap=True)


def compiling() -> ProgressCallback:
    """A callback for the compiler that prints its first message, which says how long compiling takes, on stderr."""
    said = False

    def report(name: str, seconds: float | None) -> None:
        nonlocal said
        if not said:
            say(name)
        said = True

    return report


def show_loss(loss: float, bits_per_byte: float | None) -> str:
    """A loss in nats per token, and the bits per byte of the text where they are known."""
    return f"{loss:.4f}" + (f" ({bits_per_byte:.4f} bits per byte)" if bits_per_byte is not None else "")


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    if seconds < 1:
        return "under a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.{int(seconds < 600)}f} min"
    return f"{seconds / 3600:.1f} h"


def count(n: int, noun: str) -> str:
    """'1 layer', '2 layers'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def amount(n_bytes: float) -> str:
    """An amount of memory: 986 bytes, 17 kB, 1.2 MB."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    for unit, size in (("kB", 1e3), ("MB", 1e6)):
        if n_bytes < 999.5 * size:
            return f"{n_bytes / size:.{1 if n_bytes < 9.95 * size else 0}f} {unit}"
    return f"{n_bytes / 1e9:.1f} GB"
