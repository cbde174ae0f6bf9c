"""Draw the pictures of docs/fast.md: `python docs/fast.py`. A test holds that they are drawn from its table.

tiles.svg is the tile and the panels as plan.py has them, sizes.svg the time per token over the number of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from microgpt.engines.fused.plan import PAIR, tile_rows

PAGE = Path(__file__).with_suffix(".md")
TILES, SIZES = (PAGE.with_name(name) for name in ("tiles.svg", "sizes.svg"))
HEAD = re.compile(r"^\| work \| parameters \| tokens per step \| (.+?) \| (.+?) \|$", re.M)
ROW = re.compile(r"^\| (.+?) \| ([\d,]+) \| ([\d.,]+) \| ([\d.,]+ µs|-) \| ([\d.,]+ µs|-) \|$", re.M)
PEAK = re.compile(r"^\| peak of one core \| \| \| ([\d.]+) GFLOP/s \| ([\d.]+) GFLOP/s \|$", re.M)
COLOURS = ("#2f7d4f", "#3465a4")
GREY = "#555753"


class Point(NamedTuple):
    """Training with one thread on one machine."""

    work: str
    n_params: int
    us_per_token: float


def table() -> list[tuple[str, float, list[Point]]]:
    """For each machine its name, the peak of one core in operations per second, and its points."""
    text = PAGE.read_text(encoding="utf-8")
    rows, (names,), (peaks,) = ROW.findall(text), HEAD.findall(text), PEAK.findall(text)
    machines = []
    for i, (name, peak) in enumerate(zip(names, peaks, strict=True)):
        found = [(work, n, tokens, times[i]) for work, n, tokens, *times in rows if times[i] != "-"]
        points = [Point(work, int(_number(n)), _number(us) / _number(tokens)) for work, n, tokens, us in found]
        machines.append((name, 1e9 * _number(peak), points))
    return machines


def _number(text: str) -> float:
    return float(text.removesuffix(" µs").replace(",", ""))


def labels(points: list[Point]) -> dict[int, str]:
    """The text at each size: the microseconds per token of all its works, in the table's order."""
    by_size: dict[int, list[str]] = {}
    for point in points:
        by_size.setdefault(point.n_params, []).append(f"{point.us_per_token:.3g}")
    return {n: " · ".join(times) for n, times in by_size.items()}


def _picture(path: Path, draw: Callable[[Any], None], shape: tuple[float, float]) -> None:
    """A white card, so that it is readable on any page; the same file for the same figures."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "fast"
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=shape, facecolor="white")
    draw(figure)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.2, metadata={"Date": None})
    pyplot.close(figure)


def sizes(figure: Any) -> None:
    """Time per token over parameters, one colour per machine, with the time that arithmetic alone takes as a line."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes = figure.add_subplot()
    machines = table()
    for (name, peak, points), colour, below in zip(machines, COLOURS, (True, False), strict=True):
        first = {
            n: next(p.us_per_token for p in points if p.n_params == n)
            for n in dict.fromkeys(p.n_params for p in points)
        }
        axes.plot([*first], [*first.values()], color=colour, linewidth=1)
        axes.scatter([p.n_params for p in points], [p.us_per_token for p in points], 26, colour, label=name)
        for n, text in labels(points).items():
            offset, side = ((7, -11), "left") if below else ((-7, 6), "right")
            axes.annotate(text, (n, first[n]), offset, textcoords="offset points", ha=side, fontsize=9, color=colour)
        ends = [2e3, 2e7]
        arithmetic = [6e6 * n / peak for n in ends]
        axes.plot(ends, arithmetic, color=colour, linewidth=1, linestyle=":", label=f"6 N / {peak / 1e9:g} GFLOP/s")
    axes.set(xscale="log", yscale="log", xlim=(1.5e3, 3e7), ylim=(0.04, 1500))
    axes.set_xticks([1e4, 1e5, 1e6, 1e7], ["10 thousand", "100 thousand", "1 million", "10 million parameters"])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} µs"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.tick_params(length=0, labelsize=9)
    axes.grid(color="#e2e4e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.set_title("Time per token of training, one thread, float32 (both scales logarithmic)", loc="left", fontsize=11)


def tiles(figure: Any) -> None:
    """The tile in registers on the left; on the right the panels of W, in the order in which tiles read them."""
    from matplotlib.patches import Rectangle

    axes = figure.add_subplot()
    rows = tile_rows(64)

    def box(x: float, y: float, width: float, height: float, face: str, text: str = "") -> None:
        axes.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor="white", linewidth=1.5))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, family="monospace")

    def say(x: float, y: float, text: str, **more: Any) -> None:
        axes.text(x, y, text, **{"fontsize": 9, "color": GREY, "va": "center"} | more)

    for m in range(rows):
        y = rows - 1 - m
        box(0, y, 1.2, 0.9, "#fce8c8", f"a{m}")
        for j in range(PAIR):
            box(1.6 + 2 * j, y, 2, 0.9, "#d5e5d8", f"c{m},{j}")
    for j in range(PAIR):
        box(1.6 + 2 * j, rows + 0.3, 2, 0.9, "#cfdff2", f"w{j}")
    say(0, rows + 2, "For each k: one number of A per row", ha="left", weight="bold", color="black")
    say(0, rows + 1.6, "times two vectors of W, added to C", ha="left")
    say(0, -0.5, f"{rows} × {PAIR} sums stay in registers until the last k", ha="left")
    left, wide, panels, depth = 8, 2.4, 4, 7
    for p in range(panels):
        for k in range(depth):
            face = "#cfdff2" if p else "#a9c6ea"
            box(left + p * (wide + 0.3), rows - 1 - k + 0.25, wide, 0.7, face, f"k = {k}" if not p and k < 3 else "")
        say(left + p * (wide + 0.3) + wide / 2, rows + 0.6, f"panel {p}", ha="center")
        x = left + p * (wide + 0.3) + wide - 0.3
        arrow = {"arrowstyle": "->", "color": COLOURS[1], "linewidth": 1.4}
        axes.annotate("", (x, 1.35), (x, rows - 0.2), arrowprops=arrow)
        if p + 1 < panels:
            axes.annotate("", (x + 0.9, rows - 0.2), (x, 1.35), arrowprops=arrow | {"linestyle": ":"})
    say(left, rows + 2, "W in memory: panels two vectors wide", ha="left", weight="bold", color="black")
    say(left, rows + 1.6, "a tile reads one panel from top to bottom, without a jump", ha="left")
    for p in range(panels):
        box(left + p * (wide + 0.3), 0.1, wide + 0.3, 0.6, "#a9c6ea" if not p else "#cfdff2", f"panel {p}")
    say(left, -0.5, "one after the other; all tiles of a column read the same panel from the nearest cache", ha="left")
    axes.set(xlim=(-0.3, 19.2), ylim=(-1, rows + 2.5))
    axes.set_axis_off()


def draw(tiles_path: Path = TILES, sizes_path: Path = SIZES) -> None:
    """Both pictures."""
    _picture(tiles_path, tiles, (10, 5))
    _picture(sizes_path, sizes, (8.5, 4.8))


if __name__ == "__main__":
    draw()
