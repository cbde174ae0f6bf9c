"""POST /api/differ/…: two models, or two rungs that take the same step, at the first number in which they differ."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from microgpt.config import Model
from microgpt.engines.walkthrough import differences
from microgpt.engines.walkthrough.differences import Difference
from microgpt.errors import MicrogptError
from microgpt.model import Tensors, n_params, table
from microgpt.optim import rate_of_run
from microgpt.runs.checkpoint import Checkpoint
from microgpt.serve import limits
from microgpt.serve.api.steps import document_of, open_checkpoint, require_small, tensors_of
from microgpt.serve.errors import ApiError
from microgpt.serve.models import in_turn
from microgpt.serve.routes import Call, Route


class NamedEngine(BaseModel):
    """An engine by name, in one of its float types."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: limits.Name
    dtype: limits.Name


class RungsAnswer(BaseModel):
    """The engines that can compute here, from the definition on."""

    rungs: list[NamedEngine]


class ModelsBody(BaseModel):
    """Two models."""

    model_config = ConfigDict(strict=True, extra="forbid")
    a: limits.Name
    b: limits.Name


class RungsBody(BaseModel):
    """A step of a model, and two rungs to take it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: limits.Name | None = None
    text: limits.Document | None = None
    a: NamedEngine
    b: NamedEngine


class ArrayDifference(BaseModel):
    """How two arrays of a name differ."""

    name: str
    count: int = Field(description="of its numbers, how many differ")
    of: int
    first: list[int] | None = Field(description="the index of the first one that differs")
    values: list[float | None] | None = Field(description="both numbers there")
    largest: float | None = Field(description="difference, divided by the largest number of the array")
    shapes: list[list[int]] | None = Field(description="where they cannot be compared")


class DifferAnswer(BaseModel):
    """Two models or rungs, side by side."""

    a: str
    b: str
    first: str | None = Field(description="the first array that differs; null where none does")
    arrays: list[ArrayDifference] = Field(description="in the order of the computation")
    missing: list[str] = Field(description="arrays that one of the two alone has")


async def rungs(call: Call) -> RungsAnswer:
    """The engines that are installed."""
    found = differences.rungs()
    return RungsAnswer(
        rungs=[NamedEngine(name=name, dtype=dtype) for name, dtypes in found.items() for dtype in dtypes]
    )


async def differ_models(call: Call) -> DifferAnswer:
    """The weights of two models of the same shape or another, matrix by matrix."""
    body: ModelsBody = call.body
    a, one = await open_checkpoint(call, body.a)
    b, other = await open_checkpoint(call, body.b)
    require_comparable(one.config.model, "a")
    require_comparable(other.config.model, "b")

    def compare() -> DifferAnswer:
        try:
            return _answer(a, b, _ordered(one), _ordered(other))
        except (MicrogptError, OSError) as error:
            raise ApiError(409, f"the models cannot be compared: {error}") from None

    return await in_turn(call.service.heavy, compare)


def require_comparable(model: Model, param: str) -> None:
    """Raise ApiError for a model that is too large to be compared."""
    weights, limit = n_params(model), limits.most("compared_weights")
    if weights > limit:
        raise ApiError(422, f"this model has {weights:,} weights; up to {limit:,} are compared", param=param)


async def differ_rungs(call: Call) -> DifferAnswer:
    """A step as two rungs compute it, each in its float type."""
    body: RungsBody = call.body
    known = differences.rungs()
    for param, rung in (("a", body.a), ("b", body.b)):
        if rung.dtype not in known.get(rung.name, ()):
            raise ApiError(422, f"no rung {rung.name[:40]!r} computes in {rung.dtype[:40]!r} here", param=param)
    _, saved = await open_checkpoint(call, body.model)
    require_small(saved.config.model)

    def compare() -> DifferAnswer:
        feed, _ = document_of(saved, body.text)
        require_small(saved.config.model, len(feed.tokens) - 1)
        config = saved.config
        try:
            tensors = tensors_of(saved, [])
            lr = rate_of_run(config, min(saved.step, config.run.steps - 1))
            given = config.model, config.optim, tensors, feed, lr
            x = differences.compute(body.a.name, body.a.dtype, *given)
            y = differences.compute(body.b.name, body.b.dtype, *given)
        except (MicrogptError, OSError) as error:
            raise ApiError(409, f"the step cannot be taken: {error}") from None
        return _answer(f"{body.a.name} {body.a.dtype}", f"{body.b.name} {body.b.dtype}", x, y)

    return await in_turn(call.service.heavy, compare)


def _ordered(saved: Checkpoint) -> Tensors:
    """The matrices that a model computes with, in the order of its description."""
    weights = saved.weights()
    return {each.name: weights[each.name] for each in table(saved.config.model)}


def _answer(a: str, b: str, x: Tensors, y: Tensors) -> DifferAnswer:
    found = differences.compare(x, y)
    first = next((each.name for each in found if each.count or each.shapes), None)
    return DifferAnswer(
        a=a, b=b, first=first, arrays=[_shaped(each) for each in found], missing=sorted(x.keys() ^ y.keys())
    )


def _shaped(found: Difference) -> ArrayDifference:
    return ArrayDifference(
        name=found.name,
        count=found.count,
        of=found.of,
        first=None if found.first is None else list(found.first),
        values=None if found.values is None else list(found.values),
        largest=found.largest,
        shapes=None if found.shapes is None else [list(shape) for shape in found.shapes],
    )


REFUSED = {404: "no such model", 409: "it cannot be read, or its text cannot"}
ROUTES = [
    Route("GET", "/api/rungs", rungs, "The engines that are here.", answer=RungsAnswer),
    Route(
        "POST",
        "/api/differ/models",
        differ_models,
        "Where two models differ first.",
        body=ModelsBody,
        answer=DifferAnswer,
        statuses=REFUSED,
    ),
    Route(
        "POST",
        "/api/differ/rungs",
        differ_rungs,
        "Where two engines differ first.",
        body=RungsBody,
        answer=DifferAnswer,
        statuses=REFUSED,
    ),
]
