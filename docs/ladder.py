"""Draw the ladder's table in README as docs/ladder.svg: `python docs/ladder.py`. A test holds that they agree."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
PICTURE = Path(__file__).with_suffix(".svg")
ROW = re.compile(r"^\| \[`(\w+)`\]\S+ \| (.*?) \| \d+ \| ([\d.]+) (ms|µs) \| ([\d,]+) \|$", re.M)
MICROSECONDS = {"ms": 1000.0, "µs": 1.0}


def rows() -> list[tuple[str, str, float, str]]:
    """The name, idea, microseconds per step and labelled time of each rung, from README."""
    found = ROW.findall(README.read_text(encoding="utf-8"))
    return [
        (
            name,
            idea,
            float(time) * MICROSECONDS[unit],
            f"{time} {unit}, {times}× faster" if times != "1" else f"{time} {unit}",
        )
        for name, idea, time, unit, times in found
    ]


def draw(path: Path) -> None:
    """Horizontal bars, the time per step on a logarithmic scale; a white card, so that it is readable on any page."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "ladder"  # the same file for the same table
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    names, ideas, times, labels = zip(*rows(), strict=True)
    figure, axes = pyplot.subplots(figsize=(9, 3.6), facecolor="white")
    colours = ["#2f7d4f" if time == min(times) else "#3465a4" for time in times]
    axes.barh(names, times, color=colours, height=0.68)
    for i, (time, label, idea) in enumerate(zip(times, labels, ideas, strict=True)):
        axes.annotate(label, (time, i), (6, 5), textcoords="offset points", va="center", fontsize=9.5, weight="bold")
        axes.annotate(idea, (time, i), (6, -6), textcoords="offset points", va="center", fontsize=8, color="#555753")
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1, 2e6)
    axes.set_xticks([1, 10, 100, 1e3, 1e4, 1e5])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} µs" if x < 1000 else f"{x / 1000:g} ms"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(length=0, labelsize=9)
    axes.tick_params(axis="y", labelsize=10)
    axes.grid(axis="x", color="#e2e4e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title("Time per training step of the same model (log scale)", loc="left", fontsize=11, pad=10)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.2, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(PICTURE)
