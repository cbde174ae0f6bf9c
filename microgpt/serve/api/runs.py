"""GET /api/runs: the runs that the page chooses from."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from microgpt.data import chat_template
from microgpt.errors import MicrogptError
from microgpt.runs import checkpoint
from microgpt.serve.models import in_thread
from microgpt.serve.routes import Call, Route


class KeptCheckpoint(BaseModel):
    """A checkpoint that can be opened as NAME@STEP."""

    step: int
    best: bool


class Run(BaseModel):
    """A run of the list."""

    name: str
    model: bool  # whether there is a checkpoint to use
    chat: bool  # whether its model answers messages
    checkpoints: list[KeptCheckpoint]


class Runs(BaseModel):
    """All runs, the default one first."""

    runs: list[Run]
    may_train: bool = False


async def runs(call: Call) -> Runs:
    """The runs of the service."""
    paths = call.service.models.paths
    return Runs(runs=await in_thread(lambda: [_run(name, path) for name, path in paths.items()]))


def _run(name: str, path: Path) -> Run:
    try:
        chat = chat_template.can_chat(checkpoint.read(path).tokenizer)
    except (MicrogptError, OSError):
        return Run(name=name, model=False, chat=False, checkpoints=[])
    steps = [int(folder.name.removeprefix("step-")) for folder in checkpoint.list_steps(path / "checkpoints")]
    return Run(name=name, model=True, chat=chat, checkpoints=[KeptCheckpoint(step=step, best=False) for step in steps])


ROUTES = [Route("GET", "/api/runs", runs, "The runs, with their checkpoints.", answer=Runs)]
