"""The processes that train one model together: which of them this one is, and what all of them agree on.

Whatever depends on a clock, a signal or a disk is decided by the first process, which leads, and shared: processes that
decided for themselves would compute together at different places, and wait for each other for ever.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from microgpt.errors import UsageError, require_module
from microgpt.model import Tensors

LOST = 75  # exit status of a process that ends because another one did; the launcher has the reason
LAUNCHER = "MICROGPT_LAUNCHER"  # set by `microgpt train --processes`: its process number
LISTENER = "MICROGPT_LISTENER"  # the descriptor of the socket at MASTER_PORT that the launcher opened
SECONDS = "MICROGPT_PROCESS_TIMEOUT"
TIMEOUT = 600.0  # seconds within which every process must answer, unless the variable SECONDS says otherwise


class Processes:
    """One process that trains alone; engines/pytorch/distributed.py has several. The first has rank 0."""

    rank = 0
    size = 1
    shard = False  # whether each process keeps a part of Adam's moments alone

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and reports."""
        return self.rank == 0

    def largest(self, number: int) -> int:
        """The largest number that any process gives."""
        return number

    def decide(self, *numbers: float) -> list[float]:
        """The numbers of the process that leads; the others give as many."""
        return list(numbers)

    def agree(self, number: int) -> int:
        """The integer of the process that leads."""
        return int(self.decide(number)[0])

    def share(self, data: bytes = b"") -> bytes:
        """The data of the process that leads. The others wait for it as long as that lives."""
        return data

    def gather(self, text: str) -> list[str]:
        """The texts of all processes, by rank."""
        return [text]

    def share_tensors(self, tensors: Tensors) -> Tensors:
        """The tensors of the process that leads."""
        return tensors


ALONE = Processes()


def environment(variables: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The rank of this process and the number of processes, as torchrun and `--processes` set them; else (0, 1).

    Raises UsageError where they are no numbers.
    """
    given = {name: variables.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    if not all(given.values()):
        return 0, 1
    if not all(value.isdecimal() for value in given.values()) or int(given["RANK"]) >= int(given["WORLD_SIZE"]):
        raise UsageError(f"RANK={given['RANK']} and WORLD_SIZE={given['WORLD_SIZE']}: expected a number below another")
    return int(given["RANK"]), int(given["WORLD_SIZE"])


def timeout(variables: Mapping[str, str] = os.environ) -> float:
    """The seconds within which every process must answer. Raises UsageError."""
    given = variables.get(SECONDS, str(TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 1e6:
        raise UsageError(f"{SECONDS}={given}: expected seconds, 1 or more")
    return seconds


def join() -> Processes:
    """Find the other processes of this run, if there are any. Raises MachineError, UsageError."""
    if environment()[1] == 1:
        return ALONE
    joined: Processes = library().group()
    return joined


def end(status: int) -> None:
    """End this process at once, if it is one of several; its files are written, and PyTorch's own end takes long."""
    if found := sys.modules.get("microgpt.engines.pytorch.distributed"):
        found.end(status)


def count(given: str) -> int:
    """The number of processes that `--processes` asks for; `auto` is one per GPU. Raises UsageError, MachineError."""
    if given != "auto":
        if not (given.isascii() and given.isdecimal()) or not 1 <= int(given) <= 1024:
            raise UsageError(f"--processes: must be a number from 1 to 1024, or auto, got {given!r}")
        if int(given) > 1:
            require_library()
        return int(given)
    return max(1, library().n_gpus())


def require_library() -> None:
    """Raise MachineError where the library is missing through which processes talk to each other."""
    require_module("a run of several processes", "torch", "torch")


def library() -> Any:
    """The module through which processes talk to each other. Raises MachineError."""
    require_library()
    return importlib.import_module("microgpt.engines.pytorch.distributed")
