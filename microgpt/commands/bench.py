"""microgpt bench"""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from microgpt.commands import Switch
from microgpt.commands.flags import ConfigFlags, Flags, given, resolve
from microgpt.engines.common.hardware import cpu
from microgpt.errors import UsageError
from microgpt.terminal import output, output_json, output_table, say
from microgpt.training import bench as measuring
from microgpt.training.prepare import prepare


def bench(
    source: str = "ladder",
    *,
    scenario: str = "names",
    full_context: Switch = False,
    plot: Path | None = None,
    json: Switch = False,
    settings: Annotated[ConfigFlags, Flags] = ConfigFlags(),  # type: ignore[valid-type]
) -> None:
    """Measure how fast engines train: `bench ladder` measures all, `bench SCENARIO` one.

    Parameters
    ----------
    source
        ladder, or a scenario or text to train with one engine (--engine, --dtype, --threads, --steps).
    scenario
        Scenario that the ladder trains.
    full_context
        Fill every row to the full context instead of using the documents as they are.
    plot
        PNG or SVG file to draw the ladder into; with ladder only.
    json
        Print one JSON object.
    """
    flags = given(settings)
    if source == "ladder":
        _ladder(resolve(scenario, None, flags), plot, json)
        return
    if plot:
        raise UsageError("--plot: draws the ladder only; leave it out, or run microgpt bench ladder --plot FILE")
    config = resolve(source, None, flags)
    setup = prepare(config)
    choice, steps = setup.choice, config.run.steps
    say(f"measuring {choice.name} in {choice.dtype}, {steps:,} steps, best of {measuring.REPEATS}")
    found = asdict(measuring.measure(setup, measuring.feed_of(setup, steps, full_context)))
    del found["losses"]
    if json:
        output_json(found)
    else:
        output("\n".join(f"{key:14} {_number(value)}" for key, value in found.items()))


def _ladder(config: Any, plot: Path | None, json: bool) -> None:
    # One thread unless asked otherwise, so that rungs are compared by their idea.
    config = config.replace(run={"threads": config.run.threads or 1})
    say(f"training {config.name} on every engine, best of {measuring.REPEATS}")
    rows = measuring.ladder_rows(measuring.ladder(config))
    chip = cpu()
    machine = f"{chip['name']}, {chip['vector_bits']}-bit vectors, {chip['cores']} cores, {config.run.threads} used"
    if plot:
        draw(rows, plot, machine)
    if json:
        output_json({"scenario": config.name, "machine": machine, "rungs": rows})
        return
    show(rows)
    output(f"{config.name}, {rows[0]['n_params']:,} parameters; {machine}")


def show(rows: list[dict[str, Any]]) -> None:
    """Print the ladder as a table; a bar's length is the logarithm of the speed."""
    columns = [{"header": name} for name in ("engine", "dtype", "idea")]
    numbers = ("lines", "time per step", "tokens/s", "times faster", "loss off by")
    columns += [{"header": name, "justify": "right"} for name in numbers]
    drawn = [
        (
            row["engine"],
            row["dtype"],
            row["idea"],
            row["lines"],
            _time(row["us_per_step"]),
            f"{row['tokens_per_s']:,.0f}",
            f"{row['times_faster']:,.0f}",
            f"{row['loss_difference']:.0e}",
            "█" * max(1, round(5 * math.log10(max(row["times_faster"], 1)))),
        )
        for row in rows
    ]
    output_table([*columns, {"header": ""}], drawn, width=None if os.isatty(1) else 150)


def draw(rows: list[dict[str, Any]], path: Path, machine: str) -> None:
    """Draw the time per step of each rung on a logarithmic scale. Raises MachineError without matplotlib."""
    import importlib.util

    from microgpt.errors import MachineError, install

    if not importlib.util.find_spec("matplotlib"):
        raise MachineError(f"--plot: matplotlib is not installed; {install('plot')}")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = [f"{row['engine']}\n{row['dtype']}" for row in rows]
    figure, axes = pyplot.subplots(figsize=(1.2 * len(rows) + 2, 4.5))
    bars = axes.bar(names, [row["us_per_step"] for row in rows], color="#3465a4")
    axes.bar_label(bars, [_time(row["us_per_step"]) for row in rows], padding=3, fontsize=8)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_ylabel("microseconds per step (log scale)")
    axes.set_title(f"The same model, implemented {len({row['engine'] for row in rows})} ways", loc="left")
    axes.text(0, -0.25, machine, transform=axes.transAxes, fontsize=7, color="#555753")
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", dpi=150)
    pyplot.close(figure)


def _time(microseconds: float) -> str:
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} µs"


def _number(value: Any) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
