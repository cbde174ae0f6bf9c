"""--checkpoint: the flag, and how a command says which checkpoint of a run it uses. Imports nothing that takes time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from microgpt.terminal import say

if TYPE_CHECKING:
    from microgpt.runs.checkpoint import Selection

CheckpointFlag = Annotated[
    str | None,
    Parameter(help="Checkpoint of a run: last, best or a step (default: the best where it was kept, else the last)."),
]


def say_checkpoint(used: Selection | None) -> None:
    """Print on stderr which checkpoint of a run is used, unless it is the last one."""
    if used and not used.is_last:
        say(f"using   {used}")


def checkpoint_json(selection: Selection | None) -> dict[str, Any] | None:
    """Which checkpoint of a run is used, as a field of JSON; null for a model that is no run."""
    return dataclasses.asdict(selection) if selection else None
