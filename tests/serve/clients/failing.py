"""Commands of other programs, and how their failure is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


class Failed(Exception):
    """A client that did not pass, or could not be installed."""


def run(
    command: Sequence[str | Path], wrong: str, *, last: bool = False, cwd: Path | None = None, **environment: str
) -> str:
    """The output of a command. Raises Failed, with the end of what it said, or with the last line of it alone."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment, timeout=900, check=False
    )
    if not done.returncode:
        return done.stdout
    lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if line.lower().startswith(("error", "npm err")) and "complete log" not in line]
    raise Failed(f"{wrong}: {(errors or lines)[-1][:300]}" if last else "\n".join([f"{wrong}:", *lines[-60:]]))
