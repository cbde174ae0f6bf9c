"""The search behind microgpt/recipes/table.py: trainings of a fixed number of steps, whatever else runs.

python -m benchmarks.recipes.search alice.txt --kilobytes 100 --vary learning_rate 0.004 0.008 --steps 600
python -m benchmarks.recipes.search pydocs.txt --minutes 2 --vary n_embd 96 128 192

Each value of `--vary`, a field of Recipe, replaces that of the recipe which is chosen for the text and the minutes, at
the stated speed. Printed are its tokens, seconds of arithmetic, and the best bits per byte of a tenth held out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from microgpt.config import Config, Data, merge
from microgpt.data.datasets import data_folders
from microgpt.errors import DataError
from microgpt.recipes import choose
from microgpt.recipes.facts import measure
from microgpt.training.train import train

SPEED = 5.4e10  # weights per second of two quiet cores: tokens per second times parameters, about
SECTIONS = {key: name for name, keys in choose.FIELDS.items() for key in keys}
SECTIONS |= {"rows": "run", "vocabulary": "data"}
KEYS = {"rows": "batch_size", "vocabulary": "tokenizer_size"}  # of a configuration, where Recipe has another name


def cut(name: str, kilobytes: int, folder: Path) -> Path:
    """A text by its name, or its beginning as a file in `folder`. Raises DataError."""
    path = next((found for place in data_folders() if (found := place / name).exists()), Path(name))
    if not path.exists():
        raise DataError(f"{name}: no such file, and not in a folder of MICROGPT_DATA_DIR")
    if not kilobytes:
        return path
    short = folder / path.name
    short.write_bytes(path.read_bytes()[: 1000 * kilobytes].rpartition(b"\n")[0])
    return short


def trained(path: Path, seconds: float, steps: int, changed: dict[str, float], folder: Path) -> dict[str, Any]:
    """Train one recipe: its figures."""
    given: dict[str, dict[str, Any]] = {}
    for field, value in changed.items():
        given.setdefault(SECTIONS[field], {})[KEYS.get(field, field)] = value
    if "tokenizer_size" in given.get("data", {}):
        given["data"]["tokenizer"] = "bpe"
    facts = measure(Data(path=str(path)))
    speeds = {row: SPEED / (12 * row.n_layer * row.n_embd**2) for row in choose.rows_for(facts, given)}
    plan = choose.choose(facts, seconds, speeds, given)
    layer = merge({"name": path.stem, "data": {"path": str(path)}}, plan.layer, {"run": {"samples": 0, "patience": 0}})
    if steps:
        layer = merge(layer, {"run": {"steps": steps, "eval_every": max(1, steps // 10)}})
    result = train(Config.from_dict(layer), folder / "run")
    metrics = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in metrics if "val_loss" in line), key=lambda line: line["bits_per_byte"])
    tokens = max(line.get("tokens", 0) for line in metrics)
    return {**changed, "best": best["bits_per_byte"], "at": best["step"], "steps": result.step, "tokens": tokens}


def main() -> None:
    """Search, print a line of JSON per training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a file, or a data set by the name of its file")
    parser.add_argument("--kilobytes", type=int, default=0, help="train on this much of its beginning")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=0, help="instead of those that the recipe takes")
    parser.add_argument("--vary", nargs="+", default=[], metavar="FIELD VALUE", help=f"of {', '.join(SECTIONS)}")
    args = parser.parse_args()
    field, values = (args.vary[0], args.vary[1:]) if args.vary else ("", [""])
    for value in values:
        with tempfile.TemporaryDirectory() as folder:
            path = cut(args.text, args.kilobytes, Path(folder))
            changed = {field: json.loads(value)} if field else {}
            print(json.dumps(trained(path, 60 * args.minutes, args.steps, changed, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
