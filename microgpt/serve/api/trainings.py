"""/api/trainings: plan, start, stop and resume a training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

from microgpt.config import Config, merge
from microgpt.errors import MicrogptError, UsageError
from microgpt.model import n_params
from microgpt.runs.listing import STOPPED
from microgpt.scenarios import SIZES, scenario, scenarios, size
from microgpt.serve import limits
from microgpt.serve.api.runs import UNKNOWN
from microgpt.serve.errors import ApiError
from microgpt.serve.models import in_thread, in_turn
from microgpt.serve.routes import Call, Route
from microgpt.serve.trainings import Trainings, keep_text
from microgpt.training.prepare import prepare

PARTS = 20  # evaluations of a training; half as many checkpoints and samples
DEFAULT_STEPS = 1000


class TrainingBody(BaseModel):
    """What to train: a scenario, or a text that is given."""

    model_config = ConfigDict(strict=True, extra="forbid")

    scenario: Annotated[str, limits.length("name_chars")] | None = None
    text: Annotated[str, limits.length("text_chars")] | None = None
    name: Annotated[str, limits.length("name_chars")] | None = None
    size: Annotated[str, limits.length("name_chars")] | None = None
    steps: Annotated[int, limits.within("steps")] | None = None
    seconds: Annotated[float, limits.within("training_seconds")] | None = None


class Nothing(BaseModel):
    """An empty object."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Plan(BaseModel):
    """What a training would do."""

    documents: int
    held_out: int  # documents
    tokens: int
    tokenizer: str
    vocabulary: int
    parameters: int
    layers: int
    width: int
    heads: int
    context: int
    engine: str
    why: str  # this engine
    steps: int
    seconds: float  # expected


class Begun(BaseModel):
    """The run that a training began or goes on with."""

    run: str


class TrainingState(BaseModel):
    """A training that this service began."""

    run: str
    ended: int | None  # its exit status; null while it runs
    said: str  # its last line


class Scenario(BaseModel):
    """What can be trained by name."""

    name: str
    description: str


class Choices(BaseModel):
    """What can be trained here, and what was."""

    may_train: bool  # new runs
    may_control: bool  # stop runs and go on with them
    scenarios: list[Scenario]
    sizes: list[str]
    trainings: list[TrainingState]


def allowed(call: Call, *, start: bool = False) -> Trainings:
    """The trainings of the service. Raises ApiError where none may be begun."""
    found = call.service.trainings
    if not found:
        raise ApiError(403, "trainings are controlled on loopback or with an API key only")
    if start and not found.folder:
        raise ApiError(403, "new trainings need a folder of runs: microgpt serve FOLDER")
    return found


async def choices(call: Call) -> Choices:
    """What can be trained."""
    found = call.service.trainings

    def read() -> Choices:
        states = [TrainingState(run=t.run, ended=t.ended, said=t.said) for t in found.all()] if found else []
        known = [Scenario(name=name, description=scenario(name).get("description", "")) for name in scenarios()]
        return Choices(
            may_train=bool(found and found.folder),
            may_control=found is not None,
            scenarios=known,
            sizes=list(SIZES),
            trainings=states,
        )

    return await in_thread(read)


async def plan(call: Call) -> Plan:
    """What a training would do, before it does. Raises ApiError with what is wrong."""
    allowed(call, start=True)

    def planned() -> Plan:
        with tempfile.TemporaryDirectory() as folder:  # of the text, which is kept when a training begins with it
            config, _ = configured(call.body, Path(folder))
            setup = prepare(config)
        model, corpus = setup.config.model, setup.corpus
        seconds = setup.choice.seconds_per_step * setup.config.run.steps
        return Plan(
            documents=corpus.n_documents,
            held_out=setup.validation.n_held_out,
            tokens=corpus.n_tokens,
            tokenizer=setup.tokenizer.kind,
            vocabulary=model.vocab,
            parameters=n_params(model),
            layers=model.n_layer,
            width=model.n_embd,
            heads=model.n_head,
            context=model.block_size,
            engine=setup.choice.name,
            why=setup.choice.why,
            steps=setup.config.run.steps,
            seconds=min(seconds, call.body.seconds or seconds),
        )

    return await in_turn(call.service.heavy, lambda: refusing(planned))


async def start(call: Call) -> Begun:
    """Begin a training."""
    trainings = allowed(call, start=True)

    def begun() -> Begun:
        assert trainings.texts
        config, words = configured(call.body, trainings.texts)
        return Begun(run=trainings.start(call.body.name or config.name, words))

    return await in_thread(lambda: refusing(begun))


async def stop(call: Call) -> Begun:
    """Let a training save and end."""
    trainings, name = allowed(call), call.request.path_params["name"]
    await in_thread(lambda: refusing(lambda: trainings.stop(name, call.service.models.catalog.path(name))))
    return Begun(run=name)


async def resume(call: Call) -> Begun:
    """Go on with a training that was stopped."""
    trainings, name = allowed(call), call.request.path_params["name"]

    def go_on() -> None:
        path = call.service.models.catalog.path(name)
        if (state := call.service.watching.summary(path).state) != STOPPED:
            raise ApiError(409, f"the run {name!r} is {state}; only a stopped one can go on")
        trainings.resume(name, path)

    await in_thread(lambda: refusing(go_on))
    return Begun(run=name)


def refusing(work: Any) -> Any:
    """Call a function; what microgpt refuses is a mistake of the request."""
    try:
        return work()
    except MicrogptError as error:
        raise ApiError(400, str(error)) from None
    except OSError as error:
        raise ApiError(500, f"the training cannot begin: {error.strerror or error}") from None


def configured(body: TrainingBody, texts: Path) -> tuple[Config, list[str]]:
    """The configuration of a body, and the words of the command that trains it; its text is put into a folder.

    Raises UsageError, OSError.
    """
    if (body.scenario is None) == (body.text is None):
        raise UsageError("give a scenario or a text, one of them")
    if body.text is not None:
        source = str(keep_text(body.text, texts))
        layer: dict[str, Any] = {"name": "text", "data": {"path": source}}
    else:
        source = str(body.scenario)
        layer = scenario(source)
    layers = [layer, *([size(body.size)] if body.size else [])]
    steps = body.steps or merge(*layers).get("run", {}).get("steps", DEFAULT_STEPS)
    every = max(1, steps // PARTS)
    run = {
        "steps": steps,
        "eval_every": every,
        "checkpoint_every": 2 * every,
        "sample_every": 2 * every,
        "keep": PARTS,
    }
    config = Config.from_dict(merge(*layers, {"run": run}), source)
    words = [source, *(["--size", body.size] if body.size else [])]
    for key, value in run.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    if body.seconds:
        words += ["--max-time", f"{body.seconds:.0f}s"]
    return config, words


REFUSED = {409: "not in the state that is needed"}
ROUTES = [
    Route("GET", "/api/trainings", choices, "What can be trained here, and what was.", answer=Choices),
    Route("POST", "/api/trainings/plan", plan, "What a training would do.", body=TrainingBody, answer=Plan),
    Route(
        "POST", "/api/trainings/start", start, "Begin a training.", body=TrainingBody, answer=Begun, statuses=REFUSED
    ),
    Route(
        "POST",
        "/api/trainings/{name}/stop",
        stop,
        "Let a training save and end.",
        body=Nothing,
        answer=Begun,
        statuses=UNKNOWN | REFUSED,
    ),
    Route(
        "POST",
        "/api/trainings/{name}/resume",
        resume,
        "Go on with a training that was stopped.",
        body=Nothing,
        answer=Begun,
        statuses=UNKNOWN | REFUSED,
    ),
]
