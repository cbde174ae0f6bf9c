"""microgpt scenarios | scenarios show"""

from __future__ import annotations

import re
import shutil
from typing import Any

from cyclopts import App

from microgpt import files, scenarios
from microgpt.commands import Switch
from microgpt.config import Config
from microgpt.terminal import duration, output, output_exactly, output_json, output_table

WITH_DESCRIPTION = 76  # columns of a terminal that has room for more than the 60 of the other columns

app = App(name="scenarios", help="List the scenarios, or print one.")


@app.default
def list_scenarios(*, json: Switch = False) -> None:
    """List the scenarios: size, data, steps and estimated time on this machine.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    rows = {name: facts(name) for name in sorted(scenarios.scenarios(), key=_natural)}
    if json:
        output_json(rows)
        return
    described = shutil.get_terminal_size().columns >= WITH_DESCRIPTION
    titles = ("name", "parameters", "steps", "time here", "data")
    columns: list[dict[str, Any]] = [{"header": title, "no_wrap": True} for title in titles]
    if described:
        columns.append({"header": "about", "no_wrap": True, "ratio": 1})
    drawn = []
    for name, row in rows.items():
        size = f"{row['n_params']:,}" if row["n_params"] else "?"
        about = duration(row["seconds"]).replace("under a second", "< 1 s") if row["seconds"] is not None else "?"
        drawn.append((name, size, f"{row['steps']:,}", about, row["data"], row["description"])[: len(columns)])
    output_table(columns, drawn, expand=described)
    output("time here: estimated for --engine auto")
    output("microgpt train NAME trains one")
    output("microgpt scenarios show NAME prints its file")


@app.command
def show(name: str) -> None:
    """Print the file of a scenario, to be copied and changed; microgpt train --config FILE trains the copy.

    Parameters
    ----------
    name
        Scenario.
    """
    content = files.read_bytes(scenarios.path_of(name), files.SMALL)
    output_exactly(content.decode())


def _natural(name: str) -> list[str]:
    """vidya_9 before vidya_10."""
    return [part.rjust(6, "0") if part[:1].isdigit() else part for part in re.split(r"(\d+)", name)]


def facts(name: str) -> dict[str, Any]:
    """The size, steps, expected time and measurements of a scenario."""
    from microgpt.engines.ladder import choose
    from microgpt.model import n_params

    config, stated = Config.of(name), scenarios.expected(name)
    size, seconds = None, None
    if "vocab_size" in stated:
        config = config.with_vocab(stated["vocab_size"])
        size = n_params(config.model)
        tokens, rows = stated["tokens_per_step"], config.run.batch_size * config.run.grad_accum
        choice = choose(config.model, config.optim, tokens_per_step=tokens, rows_per_step=rows)
        seconds = choice.seconds_per_step * config.run.steps
    return {
        "description": config.description,
        "data": config.data.dataset or "--data FILE",
        "n_params": size,
        "steps": config.run.steps,
        "seconds": seconds,
        "expected": stated,
    }
