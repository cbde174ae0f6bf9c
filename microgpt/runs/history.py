"""The metrics of a run as columns, followed while they grow, and thinned to the points that a chart needs."""

from __future__ import annotations

import itertools
import json
import math
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.runs.folder import entry_of, number

PIECE = 2**20  # bytes read at once
MARK = 256  # bytes before the end of what was read, by which a file that was written anew is noticed
MOST_ROWS = 2**18  # of a table; beyond it, it is thinned to half, minima and maxima stay

TRAINING = ("step", "loss", "lr", "grad_norm", "tokens", "seconds")
HELD_OUT = ("step", "val_loss", "bits_per_byte")
NAN = float("nan")
MOST_STEP = 2**53  # which a float64 holds


class Table:
    """Columns of numbers with ascending steps; a value that a line does not have is NaN."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.columns = {name: array("d") for name in names}
        self._weights = array("d")  # how many rows each stands for
        self._means = array("d")  # the mean of the second column over these
        self.rows = 0  # that were added in all, also those that were thinned out

    def __len__(self) -> int:
        return len(self.columns["step"])

    def extend(self, entries: Iterable[dict[str, Any]]) -> None:
        """Add rows. One whose step is not greater than the last one's is left out. Raises TypeError, ValueError."""
        last = self.columns["step"][-1] if len(self) else -1
        rows = []
        for entry in entries:
            if entry["step"] > last:
                last = entry["step"]
                rows.append([NAN if (x := number(entry.get(name))) is None else x for name in self.names])
        for i, name in enumerate(self.names):
            self.columns[name].extend(row[i] for row in rows)
        self._weights.extend(1.0 for _ in rows)
        self._means.extend(row[1] for row in rows)
        self.rows += len(rows)
        if len(self) > MOST_ROWS:
            kept, weights, means = self._thinned(0, len(self), MOST_ROWS // 2)
            self.columns = {name: array("d", self.column(name)[kept].tobytes()) for name in self.names}
            self._weights, self._means = array("d", weights.tobytes()), array("d", means.tobytes())

    def column(self, name: str) -> np.ndarray:
        """A copy of a column, float64 (N,)."""
        return np.array(self.columns[name])

    def points(self, most: int, first: float = -math.inf, last: float = math.inf) -> dict[str, list[float | None]]:
        """At most about `most` rows with first < step <= last, minima and maxima of the second column among them.

        The column "mean" has the mean of the second one over the part that each row stands for.
        """
        low, high = np.searchsorted(self.column("step"), [first, last], side="right")
        kept, _, means = self._thinned(int(low), int(high), most)
        found = {name: self.column(name)[kept] for name in self.names} | {"mean": means}
        return {name: [None if math.isnan(value) else value for value in each.tolist()] for name, each in found.items()}

    def _thinned(self, low: int, high: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which rows of low .. high to keep, how many rows each stands for, and their means."""
        weights, means = np.array(self._weights)[low:high], np.array(self._means)[low:high]
        steps, values = self.column("step")[low:high], self.column(self.names[1])[low:high]
        if high - low <= max(4, most):
            return np.arange(low, high), weights, means
        begins = parts(steps, most)
        kept = extremes(values, begins)
        part = np.searchsorted(begins, kept, side="right") - 1
        known = np.where(np.isnan(means), 0, weights)
        sums, counts, all_rows = (np.add.reduceat(a, begins) for a in (np.nan_to_num(means) * known, known, weights))
        with np.errstate(invalid="ignore"):
            mean = sums / counts
        share = np.bincount(part, minlength=len(begins))
        return low + kept, (all_rows / np.maximum(share, 1))[part], mean[part]


class History:
    """The metrics of a run. `poll` reads what has come; for one thread at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.generation = 0  # counts how often the file was written anew, which a resumed run does
        self._begin()

    def _begin(self) -> None:
        self.training, self.held_out = Table(TRAINING), Table(HELD_OUT)
        self._offset, self._mark, self._inode = 0, b"", -1

    def poll(self) -> None:
        """Read the lines that were appended, or all where the file was cut or replaced. Raises OSError."""
        try:
            with files.open_plain(self._file) as file:
                self._read(file)
        except FileNotFoundError:
            if self._offset:
                self.generation += 1
                self._begin()

    def _read(self, file: Any) -> None:
        found = os.fstat(file.fileno())
        if self._offset:
            file.seek(max(0, self._offset - len(self._mark)))
            same = found.st_ino == self._inode and found.st_size >= self._offset
            if not same or file.read(len(self._mark)) != self._mark:
                self.generation += 1
                self._begin()
        self._inode = found.st_ino
        file.seek(self._offset)
        rest = b""
        while piece := file.read(PIECE):
            whole, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                self._take(whole + newline)
            elif len(rest) > PIECE:  # no line of ours
                self._skip(rest)
                rest = b""

    def _take(self, lines: bytes) -> None:
        each = lines.splitlines(keepends=True)
        try:
            entries: list[dict[str, Any]] = json.loads(b"[" + b",".join(each) + b"]")
            if not all(type(entry["step"]) is int and entry["step"] < MOST_STEP for entry in entries):
                raise ValueError("a step is no number")
        except (ValueError, KeyError, TypeError, RecursionError):  # one by one, without those that are damaged
            entries = [entry for line in each if (entry := entry_of(line))]
        self.training.extend(entry for entry in entries if "loss" in entry)
        self.held_out.extend(entry for entry in entries if "val_loss" in entry)
        self._skip(lines)

    def _skip(self, data: bytes) -> None:
        self._offset += len(data)
        self._mark = (self._mark + data[-MARK:])[-MARK:]


def parts(steps: np.ndarray, most: int) -> np.ndarray:
    """Where ranges of equally many steps begin, two points of `most` for each; ranges without a row are left out."""
    edges = np.linspace(steps[0], steps[-1], max(2, most // 2) + 1)[:-1]
    return np.unique(np.searchsorted(steps, edges, side="left"))


def extremes(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Indices of the first and the last value, and of the minimum and maximum of each part, ascending."""
    low, high = np.where(np.isnan(values), np.inf, values), np.where(np.isnan(values), -np.inf, values)
    kept, edges = {0, len(values) - 1}, [*begins.tolist(), len(values)]
    for begin, end in itertools.pairwise(edges):
        kept |= {begin + int(low[begin:end].argmin()), begin + int(high[begin:end].argmax())}
    return np.array(sorted(kept))
