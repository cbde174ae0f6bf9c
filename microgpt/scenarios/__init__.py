"""The scenarios that ship with the package, and the form of a scenario file.

A scenario is a TOML file of configuration keys. Beside them it may state, under `[expected]`, measurements of its
run: vocab_size, tokens_per_step, losses. They are no part of the configuration.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from microgpt.errors import UsageError, nearest
from microgpt.files import read_toml


def scenarios() -> dict[str, Path]:
    """The scenario files that ship with the package, by name."""
    folder = resources.files("microgpt") / "scenarios"
    return {Path(str(f)).stem: Path(str(f)) for f in sorted(folder.iterdir(), key=str) if f.name.endswith(".toml")}


def path_of(name: str) -> Path:
    """The file of a scenario. Raises UsageError with the nearest names."""
    known = scenarios()
    if name not in known:
        raise UsageError(f"no scenario is called {name!r}; {nearest(name, known)}")
    return known[name]


def scenario(name: str) -> dict[str, Any]:
    """A scenario's configuration layer by its name. Raises UsageError with the nearest names."""
    return {"name": name, **read(path_of(name))}


def read(path: Path) -> dict[str, Any]:
    """The configuration layer of a scenario file. Raises UsageError."""
    layer = read_toml(path)
    layer.pop("expected", None)
    return layer


def expected(name: str) -> dict[str, Any]:
    """The measurements that a scenario's file states of its run. Raises UsageError with the nearest names."""
    stated: dict[str, Any] = read_toml(path_of(name)).get("expected", {})
    return stated
