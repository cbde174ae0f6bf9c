"""samples.jsonl: the texts that a run drew while it was trained, a line each, appended as they come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from microgpt import files

LONGEST_LINE = 2**22  # bytes; a longer one is not read


class Sample(BaseModel):
    """A text, the steps that were taken when it was drawn, and whether it is one of those at the end of the run."""

    model_config = ConfigDict(strict=True)

    step: int
    text: str
    final: bool = False


def add(file: Path, step: int, texts: Iterable[str], *, final: bool = False) -> None:
    """Append samples. The final ones take the place of those that an earlier end at the same step drew.

    Raises OSError.
    """
    lines = [_line(Sample(step=step, text=text, final=final)) for text in texts]
    old = list(_lines(file)) if final else []
    kept = [line for line in old if not ((found := parse(line)) and found.final and found.step == step)]
    if len(kept) < len(old):
        files.write_atomic(file, b"".join(kept + lines))
    elif lines:
        files.append_bytes(file, b"".join(lines))


def rewind(file: Path, step: int) -> None:
    """Remove the samples of steps after `step`, which will be drawn again, and a line cut short. Raises OSError."""
    old = list(_lines(file))
    kept = [line for line in old if (found := parse(line)) and found.step <= step]
    if len(kept) < len(old):
        files.write_atomic(file, b"".join(kept))


def last(file: Path, n: int, size: int = 2**18) -> list[Sample]:
    """The last samples, at most n of them and of so many bytes; damaged lines are left out. Raises OSError."""
    try:
        with files.open_plain(file) as opened:
            begin = max(0, opened.seek(0, os.SEEK_END) - size)
            opened.seek(begin)
            lines = opened.read(size).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [found for line in lines[begin > 0 :] if (found := parse(line))][-n:]


def parse(line: bytes) -> Sample | None:
    """The sample of a line; None for one that is damaged or cut short."""
    try:
        return Sample.model_validate_json(line) if line.endswith(b"\n") else None
    except ValidationError:
        return None


def _line(sample: Sample) -> bytes:
    return files.to_json(sample.model_dump(exclude_defaults=True), indent=None)


def _lines(file: Path) -> Iterator[bytes]:
    with suppress(FileNotFoundError), files.open_plain(file) as opened:
        while line := opened.readline(LONGEST_LINE):
            yield line
