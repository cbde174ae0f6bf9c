"""--log: the metrics of a run, passed on to TensorBoard or Trackio while they are written to metrics.jsonl."""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

from microgpt import files
from microgpt.errors import MachineError, install
from microgpt.runs.folder import RunFolder, entry_of

Kind = Literal["tensorboard", "trackio"]
# The keys of a line of the metrics, and what they are called there.
TRAINING = {"loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm", "tokens": "train/tokens"}
HELD_OUT = {"val_loss": "held_out/loss", "bits_per_byte": "held_out/bits_per_byte"}


class Recorder(Protocol):
    """What records values by name at a step."""

    def write(self, step: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard for `tensorboard --logdir RUN`; steps that are repeated replace theirs.

    The step is part of a file's name, which otherwise is that of all files of one second.
    """

    def __init__(self, run: Path, first: int) -> None:
        module: Any = import_module("tensorboardX")
        self._writer = module.SummaryWriter(str(run / "tensorboard"), purge_step=first, filename_suffix=f".{first}")

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """A run of Trackio's project "microgpt", named as the run folder."""

    def __init__(self, run: Path, first: int) -> None:
        self._module: Any = import_module("trackio")
        self._module.init(project="microgpt", name=run.resolve().name, resume="allow")

    def write(self, step: int, values: dict[str, float]) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()


class Tracker:
    """Reads the lines that a run appends to its metrics: a point per call for the steps between, the mean of their
    losses, and each evaluation."""

    def __init__(self, kind: Kind, run: Path) -> None:
        self._folder, self._kind = RunFolder(run), kind
        self._sent = self._offset = 0  # the step and the byte up to which the metrics are passed on
        self._writer: Recorder | None = None

    def resumed(self, step: int) -> None:
        """The run continues: what it had written before was passed on then."""
        if self._kind != "tensorboard" or (self._folder.path / "tensorboard").is_dir():
            self._sent = step

    def follow(self) -> None:
        """Pass on what is new. Raises OSError."""
        steps: list[dict[str, Any]] = []
        for line in self._new_lines():
            if line["step"] <= self._sent:
                continue
            if "loss" in line:
                steps.append(line)
            else:
                self._write(line["step"], {name: line[key] for key, name in HELD_OUT.items() if key in line})
        if steps:
            found = {name: steps[-1].get(key) for key, name in TRAINING.items()}
            self._write(steps[-1]["step"], {**found, "train/loss": fmean(line["loss"] for line in steps)})

    def _new_lines(self) -> list[dict[str, Any]]:
        try:
            with files.open_plain(self._folder.metrics_file) as file:
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole[0]) + len(whole[1])
        return [entry for line in whole[0].splitlines() if (entry := entry_of(line + b"\n"))]

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if not self._writer:
            kind = TensorBoard if self._kind == "tensorboard" else Trackio
            self._writer = kind(self._folder.path, self._sent + 1)
        known = {name: float(x) for name, x in values.items() if isinstance(x, int | float) and math.isfinite(x)}
        self._writer.write(step, known)

    def close(self) -> None:
        """Pass on the rest, and end."""
        self.follow()
        if self._writer:
            self._writer.close()


def require(kind: Kind) -> None:
    """Raise MachineError where the library is not installed."""
    name = "tensorboardX" if kind == "tensorboard" else "trackio"
    if not find_spec(name):
        advice = install("tensorboard") if kind == "tensorboard" else "run pip install trackio"
        raise MachineError(f"--log {kind} needs {name}, which is not installed; {advice}")
