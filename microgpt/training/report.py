"""The result of a training run, and its callbacks: a subclass shows or records its progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microgpt.runs.checkpoint import Selection
from microgpt.training.prepare import RunSetup


@dataclass(frozen=True)
class Trained:
    """The result of a run."""

    path: Path
    step: int
    loss: float | None  # of the last step
    val_loss: float | None  # of the last evaluation, in nats per token
    bits_per_byte: float | None  # of the same
    seconds: float
    finished: bool = True  # by its steps, its time or its patience
    stopped_early: bool = False
    best_step: int | None = None
    samples: list[str] = field(default_factory=list)
    verb: str = "generate"  # the command that uses the model


class Callbacks:
    """Called by a run as it proceeds. These do nothing."""

    def reading(self, message: str, seconds: float | None) -> None:
        """A long text is being read: a ProgressCallback."""

    def plan(self, setup: RunSetup) -> None:
        """The run is prepared and about to start."""

    def compiling(self, name: str, seconds: float | None) -> None:
        """The engine compiles a kernel that is not cached on disk: a ProgressCallback."""

    def resumed(self, path: Path, step: int) -> None:
        """The run continues from a checkpoint."""

    def paced(self, progress: float, seconds: float) -> None:
        """The run ends with its time: how far it is, 0 to 1, and the seconds left; called before `progress`."""

    def progress(self, step: int, loss: float, tokens: int) -> None:
        """A block of steps is done: steps so far, mean loss of the last 50 steps, tokens of the block."""

    def evaluated(self, step: int, loss: float, bits_per_byte: float) -> None:
        """A held-out loss was computed, in nats per token, and the bits per byte of the held-out text."""

    def sample(self, step: int, text: str) -> None:
        """A sample was drawn during the run."""

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""

    def uses_best(self, used: Selection) -> None:
        """The run is at its end, and the samples that follow are those of its best checkpoint, not of the last."""

    def stopped_early(self, step: int, best: dict[str, Any]) -> None:
        """The held-out loss has not improved for `patience` evaluations; `best` is the best one.

        It has step, val_loss and bits_per_byte, which is None where an older version computed it.
        """
