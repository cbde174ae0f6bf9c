"""The question that every look inside begins with: a model, a text, and what is changed in either.

One look at a model is computed at a time, on a thread, and one that is slow; the others wait without a thread, and
leave when their client does.
"""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from microgpt.config import Model
from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.engines import Activations
from microgpt.engines.ensemble import Ensemble
from microgpt.errors import DataError, UsageError
from microgpt.inference.inspection import Inspector
from microgpt.inference.interventions import Change, PartOfLayer
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.neurons import Firing
from microgpt.model import n_params
from microgpt.serve import limits
from microgpt.serve.errors import ApiError
from microgpt.serve.limits import most
from microgpt.serve.models import in_turn
from microgpt.serve.routes import Call

MOST_WEIGHTS = 2**24  # attention's weights of all layers and heads
MOST_WORK = 1e11  # operations of a forward pass
STATUSES = {404: "no such model"}

Answer = TypeVar("Answer")


class Shape(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Swap(Shape):
    """A token in place of another."""

    position: limits.Place
    token: limits.Place


class ScaledPart(Shape):
    """A part of a layer, and the factor of what it adds to the residual stream."""

    part: PartOfLayer
    layer: limits.Place
    index: limits.Place = Field(0, description="of the head or neuron")
    scale: limits.Scale = 0.0


class AboutModel(Shape):
    """A model."""

    model: limits.Name | None = Field(None, description="a name of GET /api/runs, or NAME@STEP; the first by default")


class AboutText(AboutModel):
    """A text, as a model sees it."""

    text: Annotated[str, Field(max_length=most("looked_chars"))] = ""
    message: bool = Field(False, description="whether the text is a user's message to a chat model")
    swaps: Annotated[list[Swap], Field(max_length=most("swaps"))] = []
    changes: Annotated[list[ScaledPart], Field(max_length=most("changes"))] = []


class Look:
    """A text and a model, with what is changed in either."""

    def __init__(self, inspector: Inspector, asked: AboutText) -> None:
        self.inspector, self.model, self.tokenizer = inspector, inspector.model, inspector.source.tokenizer
        self.original, self.dropped = tokens_of(inspector.source, asked)
        self.tokens = list(self.original)
        for swap in asked.swaps:
            check(swap.position, len(self.tokens), "swaps: position")
            check(swap.token, self.tokenizer.vocab_size, "swaps: token")
            self.tokens[swap.position] = swap.token
        self.changes = [Change(each.part, each.layer, each.index, each.scale) for each in asked.changes]

    @property
    def activations(self) -> Activations:
        """Of the changed text in the changed model."""
        return self.inspector.activations(self.tokens, self.changes)

    @property
    def unchanged(self) -> Activations:
        """Of the text and the model as they are."""
        return self.inspector.activations(self.original)


class Inside:
    """What is kept for looks inside a loaded model."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self.turn, self.slow_turn = model, asyncio.Lock(), asyncio.Lock()
        self._making = threading.Lock()  # both queues may be the first to ask

    @property
    def inspector(self) -> Inspector:
        """The model on an engine that shows its activations."""
        with self._making:
            return self._inspector

    @functools.cached_property
    def _inspector(self) -> Inspector:
        return Inspector(self._model)

    @functools.cached_property
    def firing(self) -> Firing:
        """The neurons on sample texts, which takes up to some seconds."""
        return Firing(self.inspector)


async def look(call: Call, answer: Callable[[Inside], Answer], *, slow: bool = False) -> Answer:
    """An answer about the model that a body names, computed on a thread. Raises ApiError. `slow`: in a queue apart."""
    served = await call.service.models.get(call.body.model)
    if isinstance(served.model.engine, Ensemble):
        raise ApiError(400, f"{served.name!r} is an ensemble; look inside one of its runs", param="model")
    inside = served.kept.setdefault("inside", Inside(served.model))
    try:
        return await in_turn(inside.slow_turn if slow else inside.turn, lambda: answer(inside))
    except (DataError, UsageError) as error:
        raise ApiError(400, str(error)) from None


def tokens_of(model: LanguageModel, asked: AboutText) -> tuple[list[int], int]:
    """The tokens of a text, BOS first, and how many were dropped after it. Raises DataError."""
    tokenizer = model.tokenizer
    if asked.message and chat_template.can_chat(tokenizer):
        turn = chat_template.turn(Message("user", asked.text), tokenizer)
        found = [*turn.tokens, tokenizer.special["assistant"]]
    else:
        found = tokenizer.encode(asked.text).tolist()
    dropped = max(0, len(found) + 1 - positions(model.config.model))
    return [tokenizer.bos, *found[dropped:]], dropped


def positions(model: Model) -> int:
    """The positions of a text that are shown."""
    by_attention = math.isqrt(MOST_WEIGHTS // (model.n_layer * model.n_head))
    by_work = int(MOST_WORK / (2 * n_params(model)))
    return min(model.block_size, most("positions"), max(2, min(by_attention, by_work)))


def check(number: int, size: int, field: str) -> None:
    """Raise ApiError for a number that counts nothing."""
    if number >= size:
        raise ApiError(400, f"{field} {number} does not exist; expected 0 to {size - 1}")


def pieces(model: LanguageModel, tokens: Sequence[int]) -> list[str]:
    """Each token's own text."""
    return [model.tokenizer.token(token) for token in tokens]


def rounded(values: np.ndarray, digits: int = 4) -> Any:
    """Numbers as lists for JSON."""
    return np.round(values.astype(np.float64), digits).tolist()
