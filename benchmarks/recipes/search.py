"""The search behind microgpt/recipes/table.py: one field changed at a time from the table's row, within a budget.

python -m benchmarks.recipes.search trials.jsonl --budget 120 --threads 1
python -m benchmarks.recipes.search trials.jsonl --texts alice.txt --kilobytes 50 --minutes 0.5 --fields dropout
python -m benchmarks.recipes.search trials.jsonl --minutes 2 --vary dropout=0.2 vocabulary=2048,dropout=0.2
python -m benchmarks.recipes.search trials.jsonl --table

Cells are the texts of benchmarks/recipes/texts.py, their lengths and times, the shortest first. In each the table's row
is trained, then its neighbours. The length of a training is the number of tokens that two quiet cores train in the time
(SPEED), whatever else the machine does. A finished training is a line of the file; what it holds is not trained again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.recipes.texts import SEARCHED, text
from microgpt.config import Config, Data, Run, merge
from microgpt.recipes import choose
from microgpt.recipes.facts import Facts, measure
from microgpt.recipes.speed import dtype
from microgpt.recipes.table import Recipe
from microgpt.training.train import train

MINUTES = (0.5, 2.0, 10.0, 60.0)
SPEED = (79_000, 139_000, -0.74)  # tokens per second, of a model of so many weights, and how it falls with their number
FACTORS = {
    "learning_rate": (0.5, 2),
    "vocabulary": (0.5, 2),
    "n_embd": (0.75, 1.5),
    "block_size": (0.5, 2),
    "rows": (0.5, 2),
    "weight_decay": (0.3, 3),
}
ADDENDS = {"dropout": (-0.1, 0.1), "n_layer": (-2, 2)}
FIELDS = (*FACTORS, *ADDENDS)


class Cell(NamedTuple):
    """A text, how much of it, and the time on two quiet cores."""

    text: str
    kilobytes: int  # 0: all
    minutes: float

    def __str__(self) -> str:
        return f"{self.text}, {f'{self.kilobytes:,} kB' if self.kilobytes else 'all'}, {self.minutes:g} min"


def speed(row: Recipe) -> float:
    """Tokens per second that two quiet cores train, those of MEASURED.md, give or take a tenth."""
    at, weights, power = SPEED
    return at * ((12 * row.n_layer * row.n_embd**2 + 2 * (row.vocabulary or 96) * row.n_embd) / weights) ** power


def row_of(facts: Facts, minutes: float) -> Recipe:
    """The table's row for a text and a time."""
    return choose.nearest({row: speed(row) for row in choose.rows_for(facts, {})}, 60 * minutes)


def varied(row: Recipe, **fields: Any) -> Recipe:
    """The row with fields changed; with a width that its heads do not divide, the heads as well."""
    changed = row._replace(**fields)
    return changed._replace(n_head=choose.heads(changed.n_embd)) if changed.n_embd % (2 * row.n_head) else changed


def neighbours(row: Recipe, fields: Sequence[str]) -> Iterator[Recipe]:
    """The rows that differ from it in one of the fields."""
    for field in fields:
        old = getattr(row, field)
        if field == "vocabulary" and not old:
            continue  # characters
        new = [old * factor for factor in FACTORS[field]] if field in FACTORS else [old + n for n in ADDENDS[field]]
        for value in new:
            value = round(value, 6) if isinstance(old, float) else round(value)
            value = max(value, {"dropout": 0.0, "n_layer": 1, "vocabulary": 300}.get(field, value))
            if field == "n_embd":
                value -= value % 8
            if value != old:
                yield varied(row, **{field: value})


def identity(line: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two trainings the same: the text, the steps, the type, and the fields of the row that decide them."""
    row = {key: value for key, value in line["row"].items() if key not in ("bytes", "tokens")}
    return line["text"], line["kilobytes"], line["steps"], line.get("dtype", "auto"), *row.values()


def planned(cell: Cell, row: Recipe, facts: Facts) -> choose.Plan:
    """The plan of a row for the text of a cell, with the steps that the time allows; in the type that a user gets, and
    with what the cell's own row holds out, so that all are measured on the same text."""
    own = row_of(facts, cell.minutes)
    held_out = choose.choose(facts, 60 * cell.minutes, {own: speed(own)}, {}).layer["data"].get("val_fraction", 0.0)
    given = {"run": {"dtype": dtype(row, Run())}, "data": {"val_fraction": held_out}}
    plan = choose.choose(facts, 60 * cell.minutes, {row: speed(row)}, given)
    return plan._replace(steps=max(1, round(plan.steps)))


def trial(cell: Cell, plan: choose.Plan, threads: int) -> dict[str, Any]:
    """Train a plan on the text of a cell: the figures. As in a run with a clock, the last evaluation is at the end."""
    began = time.process_time()
    every = round(plan.steps / max(1, round(plan.steps / plan.layer["run"].get("eval_every", plan.steps))))
    with tempfile.TemporaryDirectory() as folder:
        path = text(cell.text, cell.kilobytes, Path(folder))
        steps = every * max(1, round(plan.steps / every))
        run = {"samples": 0, "threads": threads, "steps": steps, "eval_every": every, "checkpoint_every": every}
        layer = merge({"name": "trial", "data": {"path": str(path)}}, plan.layer, {"run": run})
        result = train(Config.from_dict(layer), Path(folder) / "run")
        lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in lines if "val_loss" in line), key=lambda line: line["bits_per_byte"])
    spent = round(time.process_time() - began, 1)
    return {"bits_per_byte": round(best["bits_per_byte"], 4), "at": best["step"], "cpu_seconds": spent}


def read(results: Path) -> list[dict[str, Any]]:
    """The trainings in a file; a line that an interruption cut off is none."""
    found = list[dict[str, Any]]()
    for line in results.read_text().splitlines() if results.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def trained(results: Path, cell: Cell, row: Recipe, facts: Facts, threads: int) -> dict[str, Any]:
    """The figures of a row in a cell: from the file, or trained now and appended to it.

    Of a short text the steps that learn it by heart end a training before the time does: that of another time is it.
    """
    plan = planned(cell, row, facts)
    settings = {"steps": plan.steps, "dtype": plan.layer["run"]["dtype"], "threads": threads}
    line = {**cell._asdict(), "row": row._asdict(), **settings}
    same = [other for other in read(results) if identity(other) == identity(line)]
    if there := [other for other in same if other["minutes"] == cell.minutes]:
        return there[0]
    line = {**same[0], "minutes": cell.minutes} if same else {**line, **trial(cell, plan, threads)}
    cut_off = results.exists() and results.read_bytes()[-1:] not in (b"", b"\n")
    with results.open("a") as file:
        file.write("\n" * cut_off + json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)
    return line


def difference(row: dict[str, Any], base: dict[str, Any]) -> str:
    """The fields in which a row differs from another, as one reads them."""
    changed = [key for key in Recipe._fields[2:] if row[key] != base[key] and key != "n_head"]
    return ", ".join(f"{key} {row[key]:g}" for key in changed) or "n_head"


def table(lines: list[dict[str, Any]]) -> str:
    """The trainings as rows of Markdown, by time: each cell's first, that of the table, and what changes give."""
    cells: dict[Cell, list[dict[str, Any]]] = {}
    for line in lines:
        cells.setdefault(Cell(line["text"], line["kilobytes"], line["minutes"]), []).append(line)
    out = ["| text | row | bits per byte | changed: bits per byte |", "|---|---|---|---|"]
    for cell, found in sorted(cells.items(), key=lambda item: item[0].minutes):
        base, best = found[0], min(line["bits_per_byte"] for line in found)
        shape = "{n_layer} x {n_embd}, vocabulary {vocabulary}, rate {learning_rate:g}, ".format(**base["row"])
        shape += "dropout {dropout:g}, decay {weight_decay:g}".format(**base["row"])
        changes = []
        for line in found[1:]:
            mark = "**" * (line["bits_per_byte"] == best)
            changes.append(f"{difference(line['row'], base['row'])}: {mark}{line['bits_per_byte']:.3f}{mark}")
        out.append(f"| {cell} | {shape} | {base['bits_per_byte']:.3f} | {'; '.join(changes)} |")
    return "\n".join(out)


def main(words: list[str] | None = None) -> None:
    """Search, print a line of JSON per training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSONL file of the trainings, appended to")
    parser.add_argument("--texts", nargs="+", default=list(SEARCHED), help="by the names of texts.py; all by default")
    parser.add_argument("--kilobytes", nargs="+", type=int, help="of each text, 0 for all (default: those of texts.py)")
    parser.add_argument("--minutes", nargs="+", type=float, default=MINUTES)
    parser.add_argument("--fields", nargs="*", default=FIELDS, choices=FIELDS, help="to change (default: all)")
    parser.add_argument("--vary", nargs="+", metavar="FIELD=VALUE,…", help="these changes in place of neighbours")
    parser.add_argument("--budget", type=float, default=float("inf"), help="minutes after which no training begins")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what the file holds as Markdown")
    args = parser.parse_args(words)
    if args.table:
        return print(table(read(args.results)))
    end = time.monotonic() + 60 * args.budget
    cells = [
        Cell(name, kilobytes, minutes)
        for minutes in args.minutes
        for name in args.texts
        for kilobytes in args.kilobytes or SEARCHED.get(name, (0,))
    ]
    for cell in cells:
        with tempfile.TemporaryDirectory() as folder:
            facts = measure(Data(path=str(text(cell.text, cell.kilobytes, Path(folder)))))
        row = row_of(facts, cell.minutes)
        if args.vary:
            pairs = [[part.split("=") for part in change.split(",")] for change in args.vary]
            others = [varied(row, **{field: json.loads(value) for field, value in change}) for change in pairs]
        else:
            others = list(neighbours(row, args.fields))
        for each in [row, *others]:
            if time.monotonic() >= end:
                return None
            trained(args.results, cell, each, facts, args.threads)
    return None


if __name__ == "__main__":
    main()
