"""The verbs of the command line, a module each."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

command_line: list[str] = []  # the words of the command that runs, which --processes starts again

Switch = Annotated[bool, Parameter(negative="", show_default=False)]  # a flag that is off unless given
ProcessesFlag = Annotated[str | None, Parameter(show_default=False)]  # a number, or auto
ShardFlag = Annotated[Literal["optimizer"] | None, Parameter(show_default=False)]
