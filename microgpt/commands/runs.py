"""microgpt runs list | compare | plot | best | rm"""

from __future__ import annotations

import glob
import os
import sys
import time
from pathlib import Path
from typing import Any

from cyclopts import App

from microgpt import files
from microgpt.commands import Switch
from microgpt.commands.compare import (
    FORMATS,
    LETTERS,
    MOST_NAMED,
    POINTS,
    chart,
    chart_columns,
    curve,
    differing,
    dots,
    draw,
    history,
    show,
    shown,
)
from microgpt.commands.compare import row as compared
from microgpt.errors import CheckpointError, MachineError, UsageError, nearest
from microgpt.runs.folder import RunFolder
from microgpt.runs.listing import DAMAGED, RunSummary, is_run, runs_in, summary
from microgpt.terminal import amount, duration, output, output_json, output_table, say

app = App(name="runs", help="List, compare, plot and remove many runs.")

MOST_SETTINGS = 6  # that a line has room for
MOST_DRAWN = 500  # runs in a picture
FIGURES = ("step", "loss", "val_loss", "bits_per_byte", "parameters", "seconds", "updated")  # that can be sorted by
# The files of a run; of a folder with others, nothing is removed.
OURS = {"run.toml", "metrics.jsonl", "metrics.damaged", "samples.jsonl", "rejects.jsonl", "checkpoints", "latest"}
OURS |= {".lock", ".owner.json", "tensorboard"}


@app.command(name="list")
def list_runs(*runs: str, sort: str = "path", json: Switch = False) -> None:
    """List runs: state, size, steps and losses.

    Parameters
    ----------
    runs
        Runs, folders of runs or of sweeps, and patterns such as "runs/names*" (default: runs).
    sort
        path, state, or step, loss, val_loss, bits_per_byte, parameters, seconds, updated; lowest first.
    json
        Print one JSON object.
    """
    rows = [facts(found) for found in ordered(found_in(runs), sort)]
    if json:
        output_json({"runs": rows})
        return
    titles = ("run", "state", "parameters", "step", "loss", "held-out", "bits/byte", "time")
    columns: list[dict[str, Any]] = [{"header": titles[0], "overflow": "fold"}]
    columns += [{"header": title, "justify": "right", "no_wrap": True} for title in titles[1:]]
    output_table(columns, [_cells(row) for row in rows])


@app.command
def compare(*runs: str, sort: str = "val_loss", json: Switch = False) -> None:
    """Compare runs by their losses and the settings that differ, a line per run.

    Parameters
    ----------
    runs
        Runs, folders of runs or of sweeps, and patterns (default: runs).
    sort
        As of microgpt runs list.
    json
        Print one JSON object.
    """
    found = [each for each in ordered(found_in(runs), sort) if each.state != DAMAGED]
    differences, rows = differing(found), [facts(each) for each in found]
    if json:
        output_json({"runs": rows, "differing": differences})
        return
    if len(differences) > MOST_SETTINGS and len(found) <= MOST_SETTINGS:
        show([compared(each, history(each.path)) for each in found], differences)  # a line per setting
        return
    if len(differences) > MOST_SETTINGS:
        say(f"note    {len(differences) - MOST_SETTINGS} more settings differ; --json has all")
    differences = dict(list(differences.items())[:MOST_SETTINGS])
    columns: list[dict[str, Any]] = [{"header": "run", "overflow": "fold"}]
    columns += [{"header": title, "justify": "right"} for title in ("held-out", "bits/byte", "loss")]
    columns += [{"header": key.rpartition(".")[2], "justify": "right", "overflow": "fold"} for key in differences]
    lines = []
    for i, row in enumerate(rows):
        values = (shown(values[i]) for values in differences.values())
        lines.append([row["path"], *(_figure(row[key]) for key in ("val_loss", "bits_per_byte", "loss")), *values])
    output_table(columns, lines)


@app.command
def plot(*runs: str, sort: str = "val_loss", out: Path | None = None, json: Switch = False) -> None:
    """Draw the training losses of runs in the terminal, or in a file with the held-out losses.

    Parameters
    ----------
    runs
        Runs, folders of runs or of sweeps, and patterns (default: runs); a terminal shows the first 52, a picture 500.
    sort
        As of microgpt runs list.
    out
        Picture to write: .svg, .png or .pdf.
    json
        Print the points of all of them as one JSON object: pairs of tokens trained on and loss.
    """
    if out and json:
        raise UsageError("--out and --json: give one of them")
    if out and out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: expected a name that ends in {', '.join(FORMATS)}")
    found = [each for each in ordered(found_in(runs), sort) if each.state != DAMAGED]
    if json:
        pasts = [(each, history(each.path)) for each in found]
        points = [
            {"path": str(each.path), "training": curve(past, POINTS), "held_out": dots(past)} for each, past in pasts
        ]
        output_json({"runs": points})
        return
    most = MOST_DRAWN if out else len(LETTERS)
    if left := len(found[most:]):
        more = "" if out else f", or --out draws up to {MOST_DRAWN}"
        say(f"note    {left} more runs are not drawn; name fewer, or --sort them otherwise{more}")
    found = found[:most]
    if out and len(found) > MOST_NAMED:
        say(f"note    the legend names the first {MOST_NAMED} of {len(found)} runs")
    histories = [history(each.path) for each in found]
    if out:
        draw([compared(each, past) for each, past in zip(found, histories, strict=True)], histories, out)
        say(f"picture {out}")
        return
    for letter, each in zip(LETTERS, found, strict=False):
        output(f"{letter} {each.path}")
    for line in chart([curve(past, chart_columns() // 2) for past in histories]):
        output(line)


@app.command
def best(*runs: str, objective: str = "val_loss", json: Switch = False) -> None:
    """Print the run with the lowest held-out loss: microgpt generate $(microgpt runs best).

    Parameters
    ----------
    runs
        Runs, folders of runs or of sweeps, and patterns (default: runs).
    objective
        val_loss, or bits_per_byte where tokenizers differ.
    json
        Print one JSON object.
    """
    if objective not in ("val_loss", "bits_per_byte"):
        raise UsageError(f"--objective {objective}: expected val_loss or bits_per_byte")
    first = facts(ordered(found_in(runs), objective)[0])
    if first[objective] is None:
        raise CheckpointError("no run has a held-out loss; train with --eval-every")
    if json:
        output_json(first)
        return
    say(f"best    {objective} {first[objective]:.4f} at step {first['best'] or first['step']:,}")
    output(first["path"])


@app.command
def rm(*runs: str, yes: Switch = False, json: Switch = False) -> None:
    """Remove runs, after asking; none of them where one is at work or holds other files.

    Parameters
    ----------
    runs
        Runs, folders of runs or of sweeps, and patterns; without any nothing is removed.
    yes
        Do not ask.
    json
        Print one JSON object.
    """
    if not runs:
        raise UsageError("runs rm: name the runs to remove, or a pattern in quotes")
    found = found_in(runs)
    sizes = [_removable(each) for each in found]
    for each, size in zip(found, sizes, strict=True):
        step = f"step {each.step:,}, {len(each.checkpoints)} checkpoints, " if each.state != DAMAGED else ""
        say(f"remove  {each.path}: {each.state}, {step}{amount(size)}")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("runs rm: nobody can be asked; --yes removes without asking")
        say(f"remove {len(found)} runs, {amount(sum(sizes))}? They cannot be brought back. Type yes:")
        if sys.stdin.readline().strip() != "yes":
            raise UsageError("runs rm: nothing was removed")
    for each in found:
        with files.disk("be removed", each.path, "run the command again"):
            if RunFolder(each.path).config_file.exists():
                with RunFolder(each.path).lock():  # whoever has just begun to train is not robbed of it
                    files.remove_folder(each.path)
            else:
                files.remove_folder(each.path)
    if json:
        output_json({"removed": [str(each.path) for each in found]})
    else:
        say(f"removed {len(found)} runs")


def _removable(found: RunSummary) -> int:
    """The bytes of a run that may be removed. Raises UsageError, MachineError."""
    path = found.path
    if path.is_symlink():
        raise UsageError(f"{path}: a link; remove the run that it leads to, or the link yourself")
    if RunFolder(path).is_running():
        raise MachineError(f"{path}: a trainer is at work in it; nothing was removed", "E_LOCKED")
    if (path / "run.toml").exists():
        others = sorted(entry.name for entry in path.iterdir() if entry.name not in OURS)
        others = [name for name in others if files.asked_for(name) == name]
        if others:
            raise UsageError(
                f"{path}: holds {others[0]}, which is no part of a run; move it first; nothing was removed"
            )
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def found_in(named: tuple[str, ...]) -> list[RunSummary]:
    """The runs that paths and patterns name, each once. Raises UsageError where one names none."""
    paths: dict[Path, None] = {}
    for name in named or ("runs",):
        matches = sorted(glob.glob(name)) if glob.has_magic(name) and not os.path.lexists(name) else [name]
        inside = [path for match in matches for path in _runs_at(Path(match))]
        if not inside:
            raise UsageError(f"{name}: no run is there; name run folders, or a pattern in quotes such as 'runs/names*'")
        paths |= dict.fromkeys(inside)
    return [summary(path) for path in paths]


def _runs_at(path: Path) -> list[Path]:
    """A run; or those in a folder, and the trials of the sweeps in it."""
    try:
        if is_run(path):
            return [path]
        if (path / "sweep.toml").is_file():
            return [*runs_in(path / "trials").values()]
        sweeps = sorted(entry.parent for entry in path.glob("*/sweep.toml"))
    except OSError:
        return []
    return [*runs_in(path).values(), *(run for each in sweeps for run in runs_in(each / "trials").values())]


def ordered(found: list[RunSummary], key: str) -> list[RunSummary]:
    """Runs by a figure, those without it last. Raises UsageError."""
    known = ("path", "state", *FIGURES)
    if key not in known:
        raise UsageError(f"--sort {key}: {nearest(key, dict.fromkeys(known))}")

    def place(each: RunSummary) -> tuple[Any, ...]:
        value = facts(each)[key]
        return value is None, value if value is not None else 0, str(each.path)

    return sorted(found, key=place)


def facts(found: RunSummary) -> dict[str, Any]:
    """A run as a line of a list, ready for JSON. The held-out loss is the lowest known, in nats per token."""
    return {
        "path": str(found.path),
        "state": found.state,
        "parameters": found.parameters,
        "step": found.step,
        "steps": found.steps,
        "loss": found.loss,
        "val_loss": found.lowest_loss,
        "bits_per_byte": found.lowest_bits,
        "best": found.best,
        "tokens": found.tokens,
        "seconds": found.seconds,
        "updated": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.updated)),
        "problem": found.problem,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    if row["problem"]:
        return [row["path"], row["state"], *["-"] * 6]
    steps = f"{row['step']:,}" if row["step"] == row["steps"] else f"{row['step']:,} of {row['steps']:,}"
    return [
        row["path"],
        row["state"],
        "-" if row["parameters"] is None else f"{row['parameters']:,}",
        steps if row["steps"] else f"{row['step']:,}",
        *(_figure(row[key]) for key in ("loss", "val_loss", "bits_per_byte")),
        "-" if row["seconds"] is None else duration(row["seconds"]),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
