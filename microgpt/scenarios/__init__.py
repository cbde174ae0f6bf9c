"""The scenarios and sizes that ship with the package: layers of configuration by name.

A scenario is a TOML file of configuration keys. Beside them it may state, under `[expected]`, measurements of its
run: vocab_size, tokens_per_step, losses. They are no part of the configuration.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from microgpt.errors import UsageError, nearest
from microgpt.files import read_toml

# Shapes of a model with a learning rate and batch size that suit them (--size).
SIZES: dict[str, dict[str, Any]] = {
    name: {
        "model": {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "block_size": block_size},
        "optim": {"learning_rate": learning_rate},
        "run": {"batch_size": batch_size},
    }
    for name, n_layer, n_embd, n_head, block_size, learning_rate, batch_size in (
        ("nano", 1, 16, 4, 16, 1e-2, 1),
        ("micro", 2, 32, 4, 64, 5e-3, 4),
        ("mini", 4, 64, 4, 64, 3e-3, 8),
        ("small", 4, 128, 4, 128, 2e-3, 16),
        ("medium", 6, 384, 6, 256, 1e-3, 32),
    )
}


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


def size(name: str) -> dict[str, Any]:
    """The configuration layer of a size. Raises UsageError with the nearest names."""
    if name not in SIZES:
        raise UsageError(f"--size: no size is called {name!r}; {nearest(name, SIZES)}")
    return SIZES[name]
