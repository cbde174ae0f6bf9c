"""The logit lens: the tokens that every stage of the residual stream would predict."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field

from microgpt.config import Model
from microgpt.inference.inspection import lens, likeliest, probabilities, stages
from microgpt.serve import limits
from microgpt.serve.api.inside.question import STATUSES, AboutText, Inside, Look, look, pieces, rounded
from microgpt.serve.routes import Call, Route

MOST_WORK = 2e10  # operations, of which the exponentials are the slowest
EXPONENTIAL = 60


class LensQuestion(AboutText):
    """A text, and how many tokens to show."""

    top: limits.Shown = 5


class Lens(BaseModel):
    """The likeliest tokens and their probabilities, by stage, position and rank."""

    first: int = Field(description="the first position of the lists; a large model shows only the last ones")
    stages: list[str]
    tokens: list[list[list[int]]]
    probabilities: list[list[list[float]]]
    pieces: dict[int, str] = Field(description="the text of each token that is named")


async def logit_lens(call: Call) -> Lens:
    """The likeliest tokens of every stage."""

    def answer(inside: Inside) -> Lens:
        at = Look(inside.inspector, call.body)
        found, model, weights = at.activations, at.model, at.inspector.weights
        first = max(0, len(at.tokens) - positions(model))
        tokens, shares = [], []
        for stage in stages(model):
            p = probabilities(lens(model, weights, found[stage][first:]))
            tokens.append(likeliest(p, call.body.top))
            shares.append(rounded(np.take_along_axis(p, tokens[-1], -1)))
        named = np.unique(tokens).tolist()
        return Lens(
            first=first,
            stages=stages(model),
            tokens=[ids.tolist() for ids in tokens],
            probabilities=shares,
            pieces=dict(zip(named, pieces(at.inspector.source, named), strict=True)),
        )

    return await look(call, answer)


def positions(model: Model) -> int:
    """How many positions are shown."""
    work = (2 * model.n_layer + 1) * model.vocab * (2 * model.n_embd + EXPONENTIAL)
    return max(1, int(MOST_WORK / work))


ROUTES = [
    Route(
        "POST",
        "/api/inside/lens",
        logit_lens,
        "The tokens that every layer would predict.",
        body=LensQuestion,
        answer=Lens,
        statuses=STATUSES,
    )
]
