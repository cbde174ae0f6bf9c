"""The picture of a scaling law: losses by the compute of their runs, a curve per width, and the prediction."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from microgpt import files
from microgpt.experiments.power_law import FLOPS
from microgpt.experiments.scaling import Law, Point, Prediction


def draw(law: Law, predicted: Prediction, checked: Point | None, folder: Path) -> list[Path]:
    """Write scaling.png and scaling.svg. Returns the files. Raises OSError."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), facecolor="white")
    try:
        for width in sorted({point.width for point in law.points}):
            runs = [point for point in law.points if point.width == width]
            n = runs[0].parameters
            (dots,) = axes.plot([p.flops for p in runs], [p.loss for p in runs], "o", label=f"{n:,} parameters")
            tokens = np.geomspace(runs[0].tokens, runs[-1].tokens, 50)
            curve = [law.best.loss(n, d) for d in tokens]
            axes.plot(FLOPS * n * tokens, curve, color=dots.get_color(), linewidth=1.2)
        last = FLOPS * predicted.parameters * predicted.tokens
        compute = np.geomspace(min(point.flops for point in law.points), last, 100)
        best = [law.best.loss(*law.best.optimum(flops)) for flops in compute]
        axes.plot(compute, best, "--", color="#555555", linewidth=1.2, label="the best size, by the law")
        low, high = predicted.loss - predicted.low, predicted.high - predicted.loss
        error = [[max(0.0, low)], [max(0.0, high)]]
        name = f"predicted, {predicted.parameters:,} parameters"
        axes.errorbar(
            [last], [predicted.loss], yerr=error, fmt="*", color="black", markersize=11, capsize=4, label=name
        )
        if checked:
            axes.plot([checked.flops], [checked.loss], "x", color="#c62828", markersize=10, label="trained")
        if law.unidentified:
            axes.set_title(f"The law is not identified: {', '.join(law.unidentified)}", loc="left", fontsize=10)
        axes.set_xscale("log")
        axes.set_xlabel("floating-point operations of the training, 6 N D")
        axes.set_ylabel("held-out loss, nats per token")
        axes.grid(color="#e2e4e0", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        drawn = {kind: io.BytesIO() for kind in ("png", "svg")}
        for kind, file in drawn.items():
            figure.savefig(file, format=kind, bbox_inches="tight", dpi=150)
    finally:
        pyplot.close(figure)
    paths = [folder / f"scaling.{kind}" for kind in drawn]
    for path, file in zip(paths, drawn.values(), strict=True):
        files.write_atomic(path, file.getvalue())
    return paths
