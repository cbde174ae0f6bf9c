"""Configurations that older versions wrote, under their present keys and with the rules that held then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEED = 42  # of a run that names none, in every version


def renamed(given: Any, old: str, new: str) -> Any:
    """The mapping with a key of files that an older version wrote under its present name."""
    if not isinstance(given, Mapping) or old not in given or new in given:
        return given
    return {new if key == old else key: value for key, value in given.items()}


def upgraded(given: Any) -> Any:
    """A whole configuration, or a layer of one, as the present version would have written it.

    run.toml and config.json hold every key, schedule_from among them. Those without split_seed are from versions
    that drew the held-out text by the run's seed.
    """
    given = renamed(given, "earlier", "phases")
    if not isinstance(given, Mapping) or "schedule_from" not in given:
        return given
    data, run = given.get("data", {}), given.get("run", {})
    if not isinstance(data, Mapping) or "split_seed" in data or not isinstance(run, Mapping):
        return given
    return {**given, "data": {**data, "split_seed": run.get("seed", SEED)}}
