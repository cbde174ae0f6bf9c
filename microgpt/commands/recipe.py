"""The choices for a text that `microgpt train` makes, unless flags say how long it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from microgpt.config import Config, merge
from microgpt.scenarios import read, scenarios, size
from microgpt.terminal import say

DEFAULT = 120.0  # seconds for a text
LENGTHS = {"steps", "epochs"}  # keys of run


class Chosen(NamedTuple):
    """A layer of configuration for a text, and the seconds that its training may take; None: as long as its steps."""

    layer: Mapping[str, Any]
    seconds: float | None = None


def choose(
    source: str | None,
    asked: Config,
    config_file: Path | None,
    flags: Mapping[str, Mapping[str, Any]],
    dial: str | None,
    seconds: float | None,
    most: float | None = None,
) -> Chosen | None:
    """The choices for SOURCE, printed; None where it is no text, or where a configuration file says all.

    `asked` is the configuration without choices, so that mistakes in it were found. Without `seconds` (--time) nothing
    but the family is chosen where flags say how many steps, and nothing at all for a text of names or words, one per
    line; else the time is `most` (--max-time) or DEFAULT.
    Raises DataError, UsageError or MachineError.
    """
    from microgpt.data.load import names_tokens
    from microgpt.data.sources import PARQUET, find_sources, keep_stdin
    from microgpt.recipes import choose as recipes
    from microgpt.recipes import facts as text_facts
    from microgpt.recipes import speed

    if source is None or source in scenarios() or (config_file and seconds is None):
        return None
    data = asked.data
    if data.path == "-":
        data = data.model_copy(update={"path": str(keep_stdin())})
    if names_tokens(data) or (data.path and find_sources(data.path)[0].suffix == PARQUET):
        return None  # its text is not looked at
    path = {"data": {"path": data.path}}
    facts = text_facts.measure(data)
    if seconds is None and (facts.kind == "short lines" or facts.bytes < recipes.TOO_SHORT):
        return Chosen(path)
    if seconds is None and LENGTHS & flags.get("run", {}).keys():
        return Chosen(merge(path, {"model": {"family": recipes.FAMILY}}))
    layers = [size(dial) if dial else {}, read(config_file) if config_file else {}, flags]
    given = {name: keys for name, keys in merge(*layers).items() if isinstance(keys, Mapping)}
    seconds = seconds or most or DEFAULT
    rows = recipes.rows_for(facts, given)
    run = asked.run.model_copy(update={"dtype": speed.dtype(rows[-1], asked.run)})
    if run.dtype != asked.run.dtype:
        given = merge(given, {"run": {"dtype": run.dtype}})
    speeds = speed.measure(rows, run)
    plan = recipes.choose(facts, seconds, speeds, given)
    for line in plan.lines:
        say(line)
    return Chosen(merge(plan.layer, path), seconds)
