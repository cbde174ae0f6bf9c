"""The runs of a service by name: those it was given, and those of a folder, where new ones appear as they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from microgpt.errors import CheckpointError
from microgpt.runs import checkpoint, listing
from microgpt.serve.errors import ApiError, ModelError

BEGIN = "microgpt train names makes one"


class Found(NamedTuple):
    """A model by the name that it is held under: NAME, or NAME@STEP."""

    name: str
    paths: tuple[Path, ...]  # several are an ensemble
    step: int | None  # of a checkpoint that was asked for; None leaves the choice to the run

    @property
    def path(self) -> Path:
        """The folder of a model that is no ensemble. Raises ApiError."""
        return _only(self.name, self.paths)


class Catalog:
    """Names of runs, of their checkpoints, and of ensembles. Its methods read folders: not for the event loop."""

    def __init__(self, given: Mapping[str, Sequence[Path]], folder: Path | None = None) -> None:
        self.given = {name: tuple(paths) for name, paths in given.items()}
        self.named = {name: paths[0] for name, paths in self.given.items() if len(paths) == 1}  # no ensembles
        self.folder = folder

    @property
    def folder_is_default(self) -> bool:
        """Whether the default model is the one of the folder that was saved last, and changes."""
        return not self.given

    def paths(self) -> dict[str, Path]:
        """All runs and model folders by name: first those that were given, whose names count, then the folder's."""
        return self.named | {name: path for name, path in self._inside().items() if name not in self.given}

    def models(self) -> list[str]:
        """The names of all models and ensembles that can be loaded, those that were given first."""
        inside = [name for name, path in self.paths().items() if name not in self.given and listing.has_model(path)]
        return [*self.given, *inside]

    def default(self) -> str:
        """The first that was given, else the run of the folder that was saved last. Raises ApiError without one."""
        if self.given:
            return next(iter(self.given))
        for name, path in sorted(self._inside().items(), key=lambda item: _saved(item[1]), reverse=True):
            if listing.has_model(path):
                return name
        raise ApiError(503, f"there is no model yet; {BEGIN}", code="model_unavailable")

    def path(self, name: str) -> Path:
        """The run or model folder of a name without a checkpoint, which is no ensemble's. Raises ApiError."""
        if found := self._find(name):
            return _only(name, found)
        raise _unknown(name)

    def place(self, name: str) -> Path:
        """Where a run that was found by its name is, also when it is gone for a while."""
        return self.named.get(name) or (self.folder or Path()) / name

    def find(self, name: str) -> Found:
        """The model of NAME, NAME@STEP, NAME@last or NAME@best; the last two are those of this moment. Raises ApiError.

        A run whose own name has an @ is found by that name.
        """
        paths = self._find(name)
        if paths:
            run, which = name, ""
        else:
            run, _, which = name.rpartition("@")
            paths = self._find(run) if which else None
        if not paths:
            raise _unknown(name)
        for path in paths:
            if not listing.has_model(path) and listing.is_run(path):
                named = run if len(paths) == 1 else path.name
                raise ApiError(503, f"the run {named!r} has no checkpoint yet", param="model", code="model_unavailable")
        if not which:
            return Found(name, paths, None)
        step = _step(_only(run, paths), run, which)
        return Found(f"{run}@{step}", paths, step)

    def _inside(self) -> dict[str, Path]:
        return listing.runs_in(self.folder) if self.folder else {}

    def _find(self, name: str) -> tuple[Path, ...] | None:
        if name in self.given:
            return self.given[name]
        if not self.folder or not name or name[0] == "." or Path(name).name != name or "\0" in name:
            return None  # no name of an entry of the folder
        try:
            return (self.folder / name,) if listing.is_run(self.folder / name) else None
        except OSError:  # a name too long for the file system
            return None


def _only(name: str, paths: tuple[Path, ...]) -> Path:
    """The one folder of a model. Raises ApiError for an ensemble."""
    if len(paths) > 1:
        message = f"{name!r} is an ensemble of {len(paths)} runs, which only generates and scores; ask for one run"
        raise ApiError(400, message, param="model")
    return paths[0]


def _step(path: Path, run: str, which: str) -> int:
    """The step of a checkpoint. Raises ApiError."""
    kept = [checkpoint.step_of(folder) for folder in checkpoint.list_steps(path / "checkpoints")]
    if which == "last" and kept:
        return kept[-1]
    if which == "best" and kept:
        try:
            best = checkpoint.best_step(path / "checkpoints" / checkpoint.step_name(kept[-1]))
        except CheckpointError as error:
            raise ModelError(f"the model {run!r} cannot be loaded", error) from error
        if best in kept:
            return best
    elif which.isascii() and which.isdigit() and len(which) < 20 and int(which) in kept:
        return int(which)
    there = ", ".join(map(str, kept[-20:])) or "it is one model without checkpoints"
    raise ApiError(
        404, f"the run {run!r} has no checkpoint {which[:40]!r}; {there}", param="model", code="model_not_found"
    )


def _saved(path: Path) -> float:
    """When a run or model folder was saved last."""
    for place in (path / "checkpoints", path / "config.json"):
        try:
            return place.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"the model {name[:200]!r} does not exist", param="model", code="model_not_found")
