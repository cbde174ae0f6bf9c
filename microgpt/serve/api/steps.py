"""POST /api/step: one training step, every number with its gradient; GET /api/step/sources: the code beside it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from microgpt.config import Model, Optim
from microgpt.engines.walkthrough import lines
from microgpt.engines.walkthrough.operations import operations
from microgpt.engines.walkthrough.step import Step, count_numbers, take_step
from microgpt.errors import DataError, MicrogptError
from microgpt.feed import Feed, pack
from microgpt.model import Tensors, table
from microgpt.optim import rate_of_run
from microgpt.runs import checkpoint
from microgpt.runs.checkpoint import Checkpoint
from microgpt.serve import limits
from microgpt.serve.errors import ApiError
from microgpt.serve.limits import most
from microgpt.serve.models import in_thread, in_turn
from microgpt.serve.routes import Call, Route
from microgpt.serve.training_rows import NoText, row_of_step
from microgpt.tokenizers import Tokenizer

Numbers = list[float | None]  # null: no number, or none that is finite


class StepBody(BaseModel):
    """A step of a model on a document."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: limits.Name | None = None
    text: limits.Document | None = Field(
        None, description="a document; by default the one that the run trains on at this step"
    )


class OperationShape(BaseModel):
    """An operation, by the name of the array that it computes."""

    name: str
    role: str
    layer: int | None
    kind: str
    inputs: list[str]
    axes: list[str]
    constants: dict[str, float | list[float]] = Field(description="what the formula of its kind needs besides")


class ArrayShape(BaseModel):
    """An array in the order of its rows."""

    shape: list[int]
    values: Numbers
    gradients: Numbers


class WeightShape(ArrayShape):
    """A matrix of weights with Adam's moments, before and after the step."""

    m: Numbers
    v: Numbers
    new_values: Numbers
    new_m: Numbers
    new_v: Numbers


class StepAnswer(BaseModel):
    """A step."""

    model: str
    step: int = Field(description="optimizer steps taken before it")
    steps: int = Field(description="of the run")
    notes: list[str] = Field(description="in which respects it is not the step that the run takes")
    tokens: list[int] = Field(description="of the row; the last is a target alone")
    vocabulary: list[str]
    lr: float
    norm: float = Field(description="of the gradient")
    scale: float = Field(description="by which the gradient is multiplied, where it is clipped")
    optim: Optim
    operations: list[OperationShape]
    arrays: dict[str, ArrayShape]
    weights: dict[str, WeightShape]


class SourceShape(BaseModel):
    """A source file."""

    name: str
    text: str
    update: list[int] = Field(description="lines of Adam, counted from 1")
    forward: dict[str, list[int]] = Field(description="by operation: the lines that compute it, the first one first")
    backward: dict[str, list[int]] = Field(description="by operation: the lines of its derivative")


class SourcesBody(BaseModel):
    """A model, whose operations are looked for."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: limits.Name | None = None


class SourcesAnswer(BaseModel):
    """The source files that are here, the definition first."""

    sources: list[SourceShape]


async def open_checkpoint(call: Call, name: str | None) -> tuple[str, Checkpoint]:
    """A model's name with its folder opened. Raises ApiError."""

    def read() -> tuple[str, Checkpoint]:
        catalog = call.service.models.catalog
        found = catalog.find(catalog.default() if name is None else name)
        return found.name, checkpoint.read(found.path, found.step)

    try:
        return await in_thread(read)
    except (MicrogptError, OSError) as error:
        raise ApiError(409, f"the model cannot be opened: {error}", param="model") from None


async def step(call: Call) -> StepAnswer:
    """A training step of a small model, in numbers."""
    body: StepBody = call.body
    name, saved = await open_checkpoint(call, body.model)
    require_small(saved.config.model)
    return await in_turn(call.service.heavy, functools.partial(_answer, name, saved, body.text))


def require_small(model: Model, T: int | None = None) -> None:
    """Raise ApiError where a step of T positions, or of any number of them, has too many numbers to be shown."""
    numbers, limit = count_numbers(model, T or 1), most("step_numbers")
    if numbers > limit and T:
        raise ApiError(
            422, f"the step has {numbers:,} numbers, more than {limit:,}; take a shorter document", param="text"
        )
    if numbers > limit:
        raise ApiError(
            422,
            f"a step of this model has {numbers:,} numbers or more, and a page shows up to {limit:,}; "
            f"take a smaller one, such as microgpt train names",
            param="model",
        )


def _answer(name: str, saved: Checkpoint, text: str | None) -> StepAnswer:
    config, notes = saved.config, list[str]()
    model = config.model
    feed, rows = document_of(saved, text)
    try:
        tensors = tensors_of(saved, notes)
    except (MicrogptError, OSError) as error:
        raise ApiError(409, f"the step cannot be taken: {error}") from None
    T = len(feed.tokens) - 1
    require_small(model, T)
    if rows > 1:
        notes.append(f"the run trains on {rows} documents per step; here it is the first of them alone")
    if text is not None:
        notes.append("the document is yours, not the one that the run trains on at this step")
    lr = rate_of_run(config, min(saved.step, config.run.steps - 1))
    if saved.step >= config.run.steps:
        notes.append("the run has made all its steps; this would be one more, at the learning rate of its last")
    found = take_step(model, config.optim, tensors, feed, lr)
    return _shaped(name, saved, found, feed, lr, notes)


def document_of(saved: Checkpoint, text: str | None) -> tuple[Feed, int]:
    """The row of a document, by default of the run's step, and how many rows that has. Raises ApiError."""
    if text is not None:
        return row_of_text(saved, text), 1
    try:
        return row_of_step(saved)
    except NoText as error:
        raise ApiError(409, str(error), param="text") from None


def row_of_text(saved: Checkpoint, text: str) -> Feed:
    """A document as the row that training would make of it. Raises ApiError for one that cannot be a row."""
    tokenizer, block = saved.tokenizer, saved.config.model.block_size
    try:
        found = tokenizer.encode(text).tolist()
    except DataError as error:
        raise ApiError(422, f"text: {error}", param="text") from None
    ends = [tokenizer.bos] if saved.config.data.trailing_bos else []
    row = [tokenizer.bos, *found, *ends][: block + 1]
    if len(row) < 2:
        raise ApiError(422, "text: has no token to learn", param="text")
    return pack([row], first_step=saved.step, seed=saved.config.run.seed)


def tensors_of(saved: Checkpoint, notes: list[str]) -> Tensors:
    """Weights and moments, in float64. Raises CheckpointError."""
    if saved.config.finetune.lora_rank:
        notes.append("the run trains adapters; here they are merged into the weights, which are all trained")
        return saved.weights()
    if saved.files is None or checkpoint.MOMENTS not in saved.files:
        notes.append("Adam's moments are not kept with this model; they begin at 0")
        return saved.weights()
    return saved.tensors()


def _shaped(name: str, saved: Checkpoint, found: Step, feed: Feed, lr: float, notes: list[str]) -> StepAnswer:
    config, before, after = saved.config, found.before, found.after
    return StepAnswer(
        model=name,
        step=saved.step,
        steps=config.run.steps,
        notes=notes,
        tokens=feed.tokens.tolist(),
        vocabulary=vocabulary(saved.tokenizer),
        lr=lr,
        norm=found.norm,
        scale=found.scale,
        optim=config.optim,
        operations=[
            OperationShape(**each._asdict(), constants=_plain(found.constants[each.name])) for each in found.operations
        ],
        arrays={
            each: ArrayShape(shape=list(values.shape), values=_flat(values), gradients=_flat(found.gradients[each]))
            for each, values in found.values.items()
        },
        weights={
            each: WeightShape(
                shape=list(shape),
                values=_flat(before[each]),
                gradients=_flat(found.gradients[each]),
                m=_flat(before[f"m.{each}"]),
                v=_flat(before[f"v.{each}"]),
                new_values=_flat(after[each]),
                new_m=_flat(after[f"m.{each}"]),
                new_v=_flat(after[f"v.{each}"]),
            )
            for each, shape, _ in table(config.model)
        },
    )


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    """The text of every token."""
    return [tokenizer.token(i) for i in range(tokenizer.vocab_size)]


def _flat(x: np.ndarray) -> Numbers:
    found: Numbers = x.ravel().tolist()
    return found


def _plain(constants: dict[str, Any]) -> dict[str, float | list[float]]:
    return {key: np.ravel(x).tolist() if isinstance(x, np.ndarray) else x for key, x in constants.items()}


async def sources(call: Call) -> SourcesAnswer:
    """The source files, with the lines of the operations of a model."""
    _, saved = await open_checkpoint(call, call.body.model)
    return await in_thread(lambda: SourcesAnswer(sources=_sources(saved)))


def _sources(saved: Checkpoint) -> list[SourceShape]:
    texts, found = lines.texts(), operations(saved.config.model)
    shapes = []
    for source in lines.SOURCES:
        if (text := texts.get(source.name)) is None:
            continue
        try:
            cited = {each.name: source.lines(text, each) for each in found}
            update = [lines.find(text, each) for each in source.update]
        except ValueError:  # somebody has changed the file, such as gpt.py in a clone: it is left out
            continue
        shapes.append(
            SourceShape(
                name=source.name,
                text=text,
                update=update,
                forward={name: where.forward for name, where in cited.items()},
                backward={name: where.backward for name, where in cited.items()},
            )
        )
    return shapes


REFUSED = {404: "no such model", 409: "it cannot be read, or its text cannot"}
ROUTES = [
    Route(
        "POST",
        "/api/step",
        step,
        "A training step in numbers.",
        body=StepBody,
        answer=StepAnswer,
        statuses=REFUSED,
    ),
    Route(
        "POST",
        "/api/step/sources",
        sources,
        "The code of a step.",
        body=SourcesBody,
        answer=SourcesAnswer,
        statuses=REFUSED,
    ),
]
