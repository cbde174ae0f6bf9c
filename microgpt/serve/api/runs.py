"""GET /api/runs and /api/runs/{name}: the runs that the page chooses from, read without their weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from microgpt import json_text
from microgpt.runs.listing import RunSummary
from microgpt.serve.models import in_thread
from microgpt.serve.routes import Call, Route


class KeptCheckpoint(BaseModel):
    """A checkpoint, which can be opened as NAME@STEP."""

    step: int
    best: bool  # whether its held-out loss is the lowest


class Run(BaseModel):
    """A run of the list. Losses are in nats per token."""

    name: str
    description: str
    model: bool  # whether there is a model to load
    chat: bool  # whether it answers messages
    parameters: int | None
    steps_done: int
    steps_planned: int | None
    state: Literal["running", "stopped", "finished", "damaged"]
    updated: float  # seconds since 1970
    checkpoints: list[KeptCheckpoint]
    loss: float | None  # the mean of the last 50 steps
    val_loss: float | None  # of the last evaluation
    bits_per_byte: float | None  # of the same
    seconds: float | None  # of training so far
    tokens: int | None  # trained on so far
    problem: str | None  # of a damaged run


class Runs(BaseModel):
    """All runs, the default one first, the others by the time of their last change."""

    runs: list[Run]
    may_train: bool = False  # whether trainings may be started here


class RunDetails(Run):
    """A run with its configuration."""

    configuration: dict[str, dict[str, Any]]  # of the sections model, optim, data, run, finetune
    data: dict[str, Any]  # source, documents and fingerprints, as the newest checkpoint states them


async def runs(call: Call) -> Runs:
    """The runs of the service."""
    catalog, watching = call.service.models.catalog, call.service.watching

    def found() -> list[Run]:
        paths = catalog.paths()
        summaries = watching.summaries(paths)
        given = {name: place for place, name in enumerate(catalog.named)}

        def place(name: str) -> tuple[int, float]:
            return given.get(name, len(given)), 0.0 if name in given else -summaries[name].updated

        return [Run(**facts(name, summaries[name])) for name in sorted(paths, key=place)]

    trainings = call.service.trainings
    return Runs(runs=await in_thread(found), may_train=bool(trainings and trainings.folder))


async def run(call: Call) -> RunDetails:
    """One run. Raises ApiError for a name that there is not."""
    catalog, name = call.service.models.catalog, call.request.path_params["name"]
    found = await in_thread(lambda: call.service.watching.summary(catalog.path(name)))
    given = found.config.to_dict() if found.config else {}
    sections = {key: value for key, value in given.items() if isinstance(value, dict)}
    return RunDetails(**facts(name, found), configuration=json_text.finite(sections), data=found.data)


def facts(name: str, found: RunSummary) -> dict[str, Any]:
    """The fields of a Run."""
    return {
        "name": name,
        "description": found.config.description if found.config else "",
        "model": found.has_model,
        "chat": found.chat,
        "parameters": found.parameters,
        "steps_done": found.step,
        "steps_planned": found.steps,
        "state": found.state,
        "updated": found.updated,
        "checkpoints": [KeptCheckpoint(step=step, best=step == found.best) for step in found.checkpoints],
        "loss": found.loss,
        "val_loss": found.val_loss,
        "bits_per_byte": found.bits_per_byte,
        "seconds": found.seconds,
        "tokens": found.tokens,
        "problem": found.problem,
    }


UNKNOWN = {404: "there is no such run"}
ROUTES = [
    Route("GET", "/api/runs", runs, "The runs, with their checkpoints.", answer=Runs),
    Route("GET", "/api/runs/{name}", run, "A run with its configuration.", answer=RunDetails, statuses=UNKNOWN),
]
