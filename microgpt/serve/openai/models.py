"""GET /v1/models: the names of the models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from microgpt.serve.errors import ApiError
from microgpt.serve.routes import Call


class Model(BaseModel):
    """A model's name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "microgpt"


class ModelList(BaseModel):
    """All models, the default one first."""

    object: Literal["list"] = "list"
    data: list[Model]


async def models(call: Call) -> ModelList:
    """All models that the service was given."""
    held = call.service.models
    return ModelList(data=[Model(id=name, created=held.created) for name in held.paths])


async def model(call: Call) -> Model:
    """One of them. Raises ApiError for another name."""
    held, name = call.service.models, call.request.path_params["id"]
    if name not in held.paths:
        raise ApiError(404, f"the model {name[:200]!r} does not exist", param="model", code="model_not_found")
    return Model(id=name, created=held.created)
