"""microgpt doctor"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands.machine import examine


def doctor(*, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Say what this machine has, and what microgpt would make of it.

    Parameters
    ----------
    json
        Print one JSON object.
    """
    facts = examine()
    if json:
        print(jsonlib.dumps(facts))
        return
    for subject, found in facts.items():
        lines = _lines(found)
        print(f"{subject.replace('_', ' '):14} {lines[0]}")
        for line in lines[1:]:
            print(f"{'':14} {line}")


def _lines(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [f"{key}: {value}" for key, value in found.items()]
    if isinstance(found, list):
        return [", ".join(f"{key} {value}" for key, value in entry.items()) for entry in found] or ["none found"]
    return ["not installed" if found is None else str(found)]
