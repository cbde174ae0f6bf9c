"""microgpt compare"""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from microgpt import files, json_text
from microgpt.commands import Switch
from microgpt.errors import CheckpointError, UsageError, install
from microgpt.runs.history import History
from microgpt.runs.listing import RunSummary, summary
from microgpt.terminal import duration, output, output_json, output_table

LETTERS = ascii_uppercase + ascii_lowercase  # of the runs of a chart
MOST_COMPARED = 26  # runs side by side
MOST_NAMED = 26  # runs in the legend of a picture
COLOURS = 10  # runs that Matplotlib's own colours tell apart; more are coloured by their place
HEIGHT, MARGIN = 12, 9  # lines of the chart, and columns of its scale
POINTS = 200  # of a curve in a picture, each the mean of the steps beside it
FORMATS = (".svg", ".png", ".pdf")
SAME = {"name", "description"}  # keys that tell nothing when they differ


def compare(runs: list[Path], /, *, plot: Path | None = None, json: Switch = False) -> None:
    """Compare runs: parameters, tokens, time, losses, the settings that differ, and the curves of their losses.

    Parameters
    ----------
    runs
        Run folders, two or more.
    plot
        Draw the curves in this file: .svg, .png or .pdf.
    json
        Print one JSON object.
    """
    if not 1 < len(runs) <= MOST_COMPARED:
        raise UsageError(f"compare: name 2 to {MOST_COMPARED} runs, got {len(runs)}")
    if plot and plot.suffix not in FORMATS:
        raise UsageError(f"--plot {plot}: expected a name that ends in {', '.join(FORMATS)}")
    found, histories = [require(path) for path in runs], [history(path) for path in runs]
    rows = [row(run, past) for run, past in zip(found, histories, strict=True)]
    differences = differing(found)
    if plot:
        draw(rows, histories, plot)
    if json:
        output_json({"runs": rows, "differing": differences})
        return
    show(rows, differences)
    for line in chart([curve(past, chart_columns() // 2) for past in histories]):
        output(line)


def require(path: Path) -> RunSummary:
    """The summary of a run. Raises CheckpointError for a folder that is none, or is damaged."""
    if not (path / "run.toml").is_file():
        raise CheckpointError(f"{path}: not the folder of a run (run.toml is missing)")
    found = summary(path)
    if found.problem:
        raise CheckpointError(found.problem)
    return found


def history(path: Path) -> History:
    """The metrics of a run. Raises OSError."""
    found = History(path / "metrics.jsonl")
    found.poll()
    return found


def row(run: RunSummary, past: History) -> dict[str, Any]:
    """The figures of a run, ready for JSON. Losses are nats per token; the best is that of the held-out text."""
    held = past.held_out
    losses = held.column("val_loss")
    at = int(losses.argmin()) if len(losses) else None
    bits = None if at is None else float(held.column("bits_per_byte")[at])
    return {
        "path": str(run.path),
        "state": run.state,
        "parameters": run.parameters,
        "step": run.step,
        "steps": run.steps,
        "tokens": run.tokens,
        "seconds": run.seconds,
        "loss": run.loss,
        "val_loss": None if at is None else float(losses[at]),
        "bits_per_byte": None if bits is None or math.isnan(bits) else bits,
        "best_step": None if at is None else int(held.column("step")[at]),
    }


def differing(runs: list[RunSummary]) -> dict[str, list[Any]]:
    """The keys of run.toml whose values are not the same in all runs, with the value of each."""
    flat = [_flat(run.config.to_dict()) if run.config else {} for run in runs]
    keys = dict.fromkeys(key for found in flat for key in found)
    table = {key: [found.get(key) for found in flat] for key in keys if key not in SAME}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of all sections as section.key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= {f"{key}.{inner}": found for inner, found in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def show(rows: list[dict[str, Any]], differences: dict[str, list[Any]]) -> None:
    """Two tables: a line per figure and per key, a column per run, with the letter of its curve."""
    known = [
        ("parameters", [_whole(found["parameters"]) for found in rows]),
        ("steps", [f"{found['step']:,} of {found['steps']:,}" for found in rows]),
        ("tokens", [_whole(found["tokens"]) for found in rows]),
        ("time", ["-" if found["seconds"] is None else duration(found["seconds"]) for found in rows]),
        ("loss", [_figure(found["loss"]) for found in rows]),
        ("held-out loss", [_figure(found["val_loss"]) for found in rows]),
        ("bits per byte", [_figure(found["bits_per_byte"]) for found in rows]),
        ("best step", [_whole(found["best_step"]) for found in rows]),
    ]
    names = [f"{letter} {found['path']}" for letter, found in zip(LETTERS, rows, strict=False)]
    for name in names:
        output(name)
    output("")
    columns: list[dict[str, Any]] = [{"header": ""}]
    columns += [{"header": name[0], "justify": "right", "overflow": "fold"} for name in names]
    output_table(columns, [(label, *values) for label, values in known])
    output("")
    if differences:
        output_table(columns, [(key, *map(shown, values)) for key, values in differences.items()])
        output("")


def _whole(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def shown(value: Any) -> str:
    """A value of run.toml in a table."""
    return "-" if value is None else value if isinstance(value, str) else json_text.dumps(value)


Curve = list[tuple[float, float]]


def curve(past: History, most: int) -> Curve:
    """Tokens trained on and the mean training loss of the steps beside, at most `most` points."""
    import numpy as np

    tokens, losses = past.training.column("tokens"), past.training.column("loss")
    known = np.isfinite(tokens) & np.isfinite(losses)
    parts = zip(*(np.array_split(a[known], min(most, max(1, int(known.sum())))) for a in (tokens, losses)), strict=True)
    return [(float(t[-1]), float(part.mean())) for t, part in parts if len(part)]


def dots(past: History) -> Curve:
    """Tokens trained on and the held-out loss at every evaluation."""
    steps = dict(zip(past.training.columns["step"], past.training.columns["tokens"], strict=True))
    held = zip(past.held_out.columns["step"], past.held_out.columns["val_loss"], strict=True)
    return [(steps[step], loss) for step, loss in held if step in steps]


def chart_columns() -> int:
    """Columns of the chart: those of the terminal, without its scale."""
    return max(20, min(100, shutil.get_terminal_size().columns) - MARGIN)


def chart(curves: list[Curve]) -> list[str]:
    """The curves as lines of text: the loss upwards, tokens to the right, a letter per run; * where two meet."""
    points = [point for found in curves for point in found]
    if not points:
        return []
    width, most = chart_columns(), max(tokens for tokens, _ in points)
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    cells = [[" "] * width for _ in range(HEIGHT)]
    for letter, found in zip(LETTERS, curves, strict=False):
        for tokens, loss in found:
            x = min(width - 1, int(tokens / (most or 1) * width))
            y = round((high - loss) / ((high - low) or 1) * (HEIGHT - 1))
            cells[y][x] = letter if cells[y][x] in (" ", letter) else "*"
    scale = {0: high, HEIGHT - 1: low}
    lines = [
        f"{f'{scale[y]:.2f}' if y in scale else '':>{MARGIN - 2}} |{''.join(line)}".rstrip()
        for y, line in enumerate(cells)
    ]
    return [*lines, f"{'':{MARGIN - 2}} +{'-' * width}", f"{'':{MARGIN}}training loss over 0 to {most:,.0f} tokens"]


def draw(rows: list[dict[str, Any]], histories: list[History], path: Path) -> None:
    """The curves as a picture: training losses as lines, held-out losses as dots. Raises UsageError."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError(f"--plot: matplotlib is not installed; {install('plot')}") from None

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), facecolor="white")
    try:
        for i, (found, past) in enumerate(zip(rows, histories, strict=True)):
            points = curve(past, POINTS)
            name = found["path"].replace("$", r"\$") if i < MOST_NAMED else "_"  # no entry of the legend
            colour = None if len(rows) <= COLOURS else pyplot.get_cmap("viridis")(i / (len(rows) - 1))
            (line,) = axes.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.4, color=colour)
            held = dots(past)
            axes.plot([x for x, _ in held], [y for _, y in held], "o", color=line.get_color(), markersize=4)
        axes.set_xlabel("tokens trained on")
        axes.set_ylabel("nats per token: training (lines), held out (dots)")
        axes.grid(color="#e2e4e0", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], bbox_inches="tight")
    finally:
        pyplot.close(figure)
    with files.disk("be written", path):
        files.write_atomic(path, picture.getvalue())
