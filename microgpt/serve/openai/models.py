"""GET /v1/models: the names of the models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from microgpt.serve.models import in_thread
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
    names = await in_thread(held.catalog.models)
    return ModelList(data=[Model(id=name, created=held.created) for name in names])


async def model(call: Call) -> Model:
    """One of them, or one of its checkpoints. Raises ApiError for another name."""
    held, name = call.service.models, call.request.path_params["id"]
    await in_thread(lambda: held.catalog.find(name))
    return Model(id=name, created=held.created)
