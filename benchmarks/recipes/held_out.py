"""Whether the table carries over: texts that the search never saw, by the row that is chosen and by the rows beside it.

python -m benchmarks.recipes.held_out unseen.jsonl --minutes 0.5 2 --budget 60 --threads 1

The texts are UNSEEN of benchmarks/recipes/texts.py. Beside the chosen row lie those for fewer and more tokens,
and those for the next shorter and longer texts. Each is trained as in search.py, and the results
go to the file in the same way. Printed is, per text, how far the chosen row is from the best of them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recipes.search import Cell, row_of, speed, trained
from benchmarks.recipes.texts import UNSEEN, text
from microgpt.config import Data
from microgpt.recipes import choose
from microgpt.recipes.facts import measure
from microgpt.recipes.table import Recipe


def beside(row: Recipe, rows: Sequence[Recipe], seconds: float) -> list[Recipe]:
    """The rows of a table next to one: fewer and more tokens, and the nearest of the next shorter and longer texts."""
    tokens = sorted((each for each in rows if each.bytes == row.bytes), key=lambda each: each.tokens)
    at, lengths = tokens.index(row), sorted({each.bytes for each in rows})
    found = tokens[max(0, at - 1) : at] + tokens[at + 1 : at + 2]
    where = lengths.index(row.bytes)
    for length in lengths[max(0, where - 1) : where] + lengths[where + 1 : where + 2]:
        found.append(choose.nearest({each: speed(each) for each in rows if each.bytes == length}, seconds))
    return found


def line(results: Path, cell: Cell, threads: int, end: float) -> str:
    """A row of Markdown for a text and a time; empty where the budget ended first."""
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Data(path=str(text(cell.text, cell.kilobytes, Path(folder)))))
    row, found = row_of(facts, cell.minutes), list[tuple[float, Recipe]]()
    for each in [row, *beside(row, choose.table_for(facts), 60 * cell.minutes)]:
        if time.monotonic() >= end:
            return ""
        found.append((trained(results, cell, each, facts, threads)["bits_per_byte"], each))
    chosen, others = found[0][0], "; ".join(f"{_name(each)}: {bits:.3f}" for bits, each in found[1:])
    return f"| {cell} | {_name(row)}: {chosen:.3f} | {others} | {chosen - min(found)[0]:.3f} |"


def _name(row: Recipe) -> str:
    return f"{row.bytes / 1e3:g} kB and {row.tokens / 1e6:g} M"


def main(words: list[str] | None = None) -> None:
    """Train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSONL file of the trainings, appended to")
    parser.add_argument("--texts", nargs="+", default=list(UNSEEN), help="by the names of texts.py; all by default")
    parser.add_argument("--kilobytes", nargs="+", type=int, help="of each text, 0 for all (default: those of texts.py)")
    parser.add_argument("--minutes", nargs="+", type=float, default=(0.5, 2.0))
    parser.add_argument("--budget", type=float, default=math.inf, help="minutes after which no training begins")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(words)
    end = time.monotonic() + 60 * args.budget
    lines = [
        line(args.results, Cell(name, kilobytes, minutes), args.threads, end)
        for minutes in args.minutes
        for name in args.texts
        for kilobytes in args.kilobytes or UNSEEN.get(name, (0,))
    ]
    print("| text | chosen row: bits per byte | rows beside it | from the best |\n|---|---|---|---|")
    print("\n".join(filter(None, lines)))


if __name__ == "__main__":
    main()
