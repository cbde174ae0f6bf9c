"""microgpt scaling"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands import Switch
from microgpt.commands.flags import base, require_text, run_name, whole_numbers
from microgpt.commands.side_by_side import RunsProgress
from microgpt.errors import UsageError, require_module
from microgpt.limits import MAX_COUNT
from microgpt.terminal import output, output_json, output_table, say

MOST_WIDTH = 65_536
UNIDENTIFIED = (
    "note    the law is not identified: these runs do not determine {}, so the prediction means little; take a longer "
    "text, more --steps, a larger --batch-size, or --widths further apart"
)


def scaling(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    widths: str | None = None,
    steps: str | None = None,
    batch_size: int | None = None,
    data: Path | None = None,
    engine: str | None = None,
    check: Switch = False,
    out: Path | None = None,
    json: Switch = False,
) -> None:
    """Train models of several sizes, fit the law of their losses, and predict the best for ten times the compute.

    Parameters
    ----------
    source
        Scenario, or a text.
    widths
        Widths of the models, with commas between (default: four that double, from an eighth of the scenario's on).
    steps
        Numbers of steps, of which each width trains all (default: half, once, twice and four times the scenario's).
    batch_size
        Rows per step (default: the scenario's). More of them make the losses less noisy.
    data
        Text to train on, as with microgpt train.
    engine
        Engine of the runs, or auto.
    check
        Train the predicted model as well, once, and print prediction and outcome.
    out
        Folder of the runs (default: runs/NAME-scaling); the same command goes on there after any end.
    json
        Print one JSON object.
    """
    require_module("microgpt scaling", "matplotlib", "plot")
    if source == "-":
        raise UsageError("SOURCE -: several runs cannot read standard input; name a file")
    layer = base(source)
    run = {name: value for name, value in (("engine", engine), ("batch_size", batch_size)) if value is not None}
    fixed: dict[str, Any] = {"data": {"path": str(data)} if data else {}, "run": run}
    require_text(source, layer.get("data", {}), fixed["data"])
    from microgpt.experiments import scaling as experiment
    from microgpt.experiments.scaling_picture import draw

    family = experiment.Family(
        layer,
        fixed,
        widths=whole_numbers("--widths", widths, 1, MOST_WIDTH) if widths is not None else (),
        steps=whole_numbers("--steps", steps, 1, MAX_COUNT) if steps is not None else (),
    )
    out = out or Path("runs") / f"{run_name(source)}-scaling"
    say(
        f"scaling {len(family.widths) * len(family.steps)} runs, widths {_list(family.widths)}, steps "
        f"{_list(family.steps)}, in {out}"
    )
    with RunsProgress() as progress:
        options: dict[str, Any] = {"say": say, "show": progress.show}
        law, predicted = experiment.train_all(family, out, **options)
        if law.unidentified:
            say(UNIDENTIFIED.format(", ".join(law.unidentified)))
        checked = experiment.check(family, predicted, out, **options) if check else None
    pictures = [str(path) for path in draw(law, predicted, checked, out)]
    if json:
        told: dict[str, Any] = {"path": str(out), "runs": [point._asdict() for point in law.points]}
        told |= {"law": law.best._asdict() | {"exponent": law.best.exponent}, "intervals": law.intervals()}
        told |= {"unidentified": law.unidentified}
        told |= {"prediction": asdict(predicted), "check": checked._asdict() if checked else None}
        output_json(told | {"pictures": pictures})
        return
    _show(law, predicted, checked)
    for picture in pictures:
        say(f"picture {picture}")
    if not checked:
        say("try     the same command with --check, which trains the predicted model")


def _list(values: list[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)


def _show(law: Any, predicted: Any, checked: Any) -> None:
    titles = ("width", "parameters", "steps", "tokens", "FLOPs", "held-out", "law")
    lines = []
    for p in law.points:
        counts = [p.width, *(f"{each:,}" for each in (p.parameters, p.steps, p.tokens))]
        fitted = law.best.loss(p.parameters, p.tokens)
        lines.append([*counts, f"{p.flops:.2e}", f"{p.loss:.4f}", f"{fitted:.4f}"])
    output_table([{"header": title, "justify": "right"} for title in titles], lines)
    best = law.best
    output("")
    if law.unidentified:
        output(f"not identified: {', '.join(law.unidentified)}")
    output(f"L = {best.E:.3f} + {best.A:.4g} / N^{best.alpha:.3f} + {best.B:.4g} / D^{best.beta:.3f}")
    ends = "; ".join(f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in law.intervals().items())
    output(f"10th to 90th percentile: {ends}")
    output(f"the best N grows with compute to the power {best.exponent:.2f}, the best D to {1 - best.exponent:.2f}")
    p = predicted
    output(
        f"ten times the compute: width {p.width}, {p.parameters:,} parameters, {p.steps:,} steps, {p.tokens:,.0f} "
        f"tokens: loss {p.loss:.4f} ({p.low:.4f} to {p.high:.4f})"
    )
    if p.limited:
        output(
            "note: the law's best size lies far outside of the sizes trained here, so the nearest of those was taken"
        )
    if checked:
        output(f"trained: {checked.loss:.4f}, {checked.loss - p.loss:+.4f} from the prediction")
