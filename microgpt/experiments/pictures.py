"""The pictures of a sweep: its history, the importance of its axes, and all trials as parallel coordinates.

Drawn by Optuna with Matplotlib, as PNG files and in one HTML page that loads nothing from elsewhere.
"""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from microgpt import files
from microgpt.experiments.spec import SweepSpec, show
from microgpt.experiments.study import COMPLETE, Study

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}}
svg{{max-width:100%;height:auto}}</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""


def draw(study: Study, rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what the trials allow: history.png, importance.png, parallel.png and sweep.html. Returns the files.

    Raises OSError.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawing

    spec, done = study.spec, [trial for trial in study.begun() if trial.state == COMPLETE]
    varied = [key for key in spec.axes if len({str(trial.params[key]) for trial in done}) > 1]
    label = "bits per byte" if spec.objective == "bits_per_byte" else "held-out loss, nats per token"
    pictures: dict[str, Callable[[], Any]] = {
        "history": lambda: drawing.plot_optimization_history(study.study, target_name=label)
    }
    if varied and len({trial.value for trial in done}) > 1:
        pictures["importance"] = lambda: drawing.plot_param_importances(study.study, params=varied)
        pictures["parallel"] = lambda: drawing.plot_parallel_coordinate(study.study, params=varied, target_name=label)
    written, body = [], [table(spec, rows)]
    for name, plot in pictures.items() if done else ():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = plot()
            figure = axes.figure
            try:
                drawn = {kind: io.BytesIO() for kind in ("png", "svg")}
                for kind, file in drawn.items():
                    figure.savefig(file, format=kind, bbox_inches="tight", facecolor="white", dpi=150)
            finally:
                pyplot.close("all")
        files.write_atomic(folder / f"{name}.png", drawn["png"].getvalue())
        written.append(folder / f"{name}.png")
        svg = drawn["svg"].getvalue().decode()
        body.append(svg[svg.index("<svg") :])
    page = PAGE.format(title=html.escape(f"Sweep {spec.name}: {label}"), body="\n".join(body))
    files.write_atomic(folder / "sweep.html", page.encode())
    return [*written, folder / "sweep.html"]


def table(spec: SweepSpec, rows: list[dict[str, Any]]) -> str:
    """The trials as an HTML table, the best first."""
    head = ["trial", "state", spec.objective, *spec.axes]
    lines = [
        [row["number"], row["state"], "" if row["value"] is None else f"{row['value']:.4f}"]
        + [show(row["params"].get(key, "")) for key in spec.axes]
        for row in rows
    ]
    cells = [[html.escape(str(cell)) for cell in line] for line in [head, *lines]]
    tags = ["th", *["td"] * len(lines)]
    return (
        "<table>"
        + "\n".join(
            "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in line) + "</tr>"
            for tag, line in zip(tags, cells, strict=True)
        )
        + "</table>"
    )
