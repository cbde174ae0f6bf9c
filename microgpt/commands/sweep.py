"""microgpt sweep"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands import Switch
from microgpt.commands.flags import base, require, require_text, run_name, whole_numbers
from microgpt.errors import UsageError, nearest, require_module
from microgpt.experiments.spec import SweepSpec, parse_axis, read, shipped, show
from microgpt.limits import MAX_SEED
from microgpt.scenarios import scenarios
from microgpt.terminal import duration, output, output_json, output_table, say

MOST_WORKERS = 1024
SHOWN = 20  # trials of the table; --json has them all


def sweep(
    source: str,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True, negative="")] = None,
    data: Path | None = None,
    trials: int | None = None,
    sampler: str | None = None,
    objective: str | None = None,
    prune: Switch = False,
    seed: int | None = None,
    workers: int | None = None,
    devices: str | None = None,
    storage: str | None = None,
    out: Path | None = None,
    json: Switch = False,
) -> None:
    """Train many runs with different settings, and find the best; the same command goes on after any end.

    Parameters
    ----------
    source
        File of a sweep (TOML), one that ships (big, depth, merges, tokenizers, width), a scenario, or a text.
    set_
        KEY=VALUES: values with commas between, log:LOW..HIGH, range:LOW..HIGH or range:LOW..HIGH:STEP; repeatable.
    data
        Text to train on, as with microgpt train.
    trials
        Runs in total; a grid has as many as its lists make.
    sampler
        grid (every combination of lists; the default where all axes are lists), random or tpe (learns from trials).
    objective
        val_loss, or bits_per_byte where tokenizers differ; the best evaluation of a run counts.
    prune
        End runs that are worse than the median of the others at the same step.
    seed
        Seed of the proposals.
    workers
        Runs at a time, each on its share of the cores (default: 1, or one per device).
    devices
        GPUs, as numbers with commas between; each worker sees one of them.
    storage
        Journal file on a shared disk or URL of a database, which sweeps of several machines share.
    out
        Folder of the sweep (default: runs/NAME-sweep).
    json
        Print one JSON object.
    """
    for name in ("optuna", "matplotlib"):
        require_module("microgpt sweep", name, "sweep")
    numbers = [] if devices is None else [str(n) for n in whole_numbers("--devices", devices, 0, MOST_WORKERS)]
    workers = workers if workers is not None else max(1, len(numbers))
    require("--workers", workers, 1, MOST_WORKERS)
    given = _given(source, set_ or [], data)
    asked = {"trials": trials, "sampler": sampler, "objective": objective, "prune": prune or None, "seed": seed}
    if seed is not None:
        require("--seed", seed, 0, MAX_SEED)
    spec = SweepSpec.of({**given, **{key: value for key, value in asked.items() if value is not None}}, source)
    layer = base(spec.scenario)
    require_text(spec.scenario, layer.get("data", {}), {key.removeprefix("data."): key for key in spec.fixed})
    out = out or Path("runs") / f"{run_name(spec.name)}-sweep"
    from microgpt.experiments import sweep as experiment
    from microgpt.experiments.pictures import draw

    options: dict[str, Any] = {"workers": workers, "devices": numbers, "storage": storage, "say": say}
    study, pool = experiment.sweep(spec, layer, out, **options)
    rows = experiment.results(study, pool)
    pictures = [str(path) for path in draw(study, rows, out)]
    best = rows[0] if rows and rows[0]["value"] is not None else None
    if json:
        output_json({"path": str(out), "objective": spec.objective, "best": best, "trials": rows, "pictures": pictures})
        return
    _show(spec, rows)
    for picture in pictures:
        say(f"picture {picture}")
    if elsewhere := sum(row["state"] == "running" for row in rows):
        say(f"others  {elsewhere} trials of other sweeps are not done; their own command goes on with them")
    if best:
        train = ["microgpt", "train", "--config", f"{best['path']}.toml"]
        say(f"best    trial {best['number']}: {shlex.join(train)}")
        say(f"try     {shlex.join(['microgpt', 'generate', best['path']])}")


def _given(source: str, axes: list[str], data: Path | None) -> dict[str, Any]:
    """The sweep that SOURCE names, with the axes and the text of the flags. Raises UsageError."""
    if source in shipped() or source.endswith(".toml"):
        given = read(shipped().get(source, Path(source)))
    elif source in scenarios() or os.path.exists(source):
        given = {"name": run_name(source), "scenario": source}
    else:
        raise UsageError(f"no sweep, scenario or file is called {source!r}; {nearest(source, shipped() | scenarios())}")
    if given.get("scenario") == "-":
        raise UsageError("scenario: several runs cannot read standard input; name a file")
    fixed, varied = ({**given.get(part, {})} for part in ("fixed", "set"))
    for text in axes:
        key, values = parse_axis(text)
        fixed.pop(key, None)
        varied.pop(key, None)
        if isinstance(values, list) and len(values) == 1:
            fixed[key] = values[0]
        else:
            varied[key] = values
    if data:
        fixed["data.path"] = str(data)
    return {**given, "fixed": fixed, "set": varied}


def _show(spec: SweepSpec, rows: list[dict[str, Any]]) -> None:
    titles = ["trial", "state", spec.objective, *(key.rpartition(".")[2] for key in spec.axes), "time"]
    columns = [{"header": title, "justify": "right"} for title in titles]
    lines = []
    for row in rows[:SHOWN]:
        value = "-" if row["value"] is None else f"{row['value']:.4f}"
        params = [show(row["params"].get(key, "-")) for key in spec.axes]
        lines.append([row["number"], row["state"], value, *params, duration(row["seconds"]) if row["seconds"] else "-"])
    output_table(columns, lines)
    if len(rows) > SHOWN:
        output(f"{len(rows) - SHOWN} more: --json has all of them")
