"""The next token's probabilities with parts of the model or of the text changed, beside the unchanged."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field

from microgpt.inference.inspection import likeliest, probabilities
from microgpt.serve import limits
from microgpt.serve.api.inside.question import STATUSES, AboutText, Inside, Look, check, look, pieces, rounded
from microgpt.serve.routes import Call, Route


class Intervention(AboutText):
    """What is changed, and where to look at the consequences."""

    position: limits.Place | None = Field(None, description="after which the next token is drawn; the last by default")
    top: limits.Shown = 10


class Candidate(BaseModel):
    """A token's probability without and with the changes."""

    token: int
    piece: str
    before: float
    after: float


class Consequences(BaseModel):
    """The likeliest next tokens of either, and how much every position's probabilities moved."""

    position: int
    candidates: list[Candidate] = Field(description="the likeliest without the changes first")
    divergence: float | None = Field(description="Kullback and Leibler's, of the changed from the unchanged, in nats")
    moved: list[float] = Field(description="half the sum of all changes of probabilities, 0 to 1, by position")


async def intervene(call: Call) -> Consequences:
    """The consequences of changes."""

    def answer(inside: Inside) -> Consequences:
        at = Look(inside.inspector, call.body)
        position = len(at.tokens) - 1 if call.body.position is None else call.body.position
        check(position, len(at.tokens), "position")
        before, after = at.unchanged["logits"], at.activations["logits"]
        p, q, top = probabilities(before[position]), probabilities(after[position]), call.body.top
        both = np.union1d(likeliest(p, top), likeliest(q, top))
        both = both[np.argsort(-p[both], kind="stable")]
        texts = pieces(inside.inspector.source, both.tolist())
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence = float(np.where(p > 0, p * np.log(p / q), 0).sum())
        return Consequences(
            position=position,
            candidates=[
                Candidate(token=token, piece=piece, before=a, after=b)
                for token, piece, a, b in zip(
                    both.tolist(), texts, rounded(p[both], 6), rounded(q[both], 6), strict=True
                )
            ],
            divergence=max(0.0, divergence) if np.isfinite(divergence) else None,
            moved=[_moved(a, b) for a, b in zip(before, after, strict=True)],
        )

    return await look(call, answer)


def _moved(before: np.ndarray, after: np.ndarray) -> float:
    """The total variation distance of two rows of logits, as probabilities."""
    return round(float(np.abs(probabilities(after) - probabilities(before)).sum()) / 2, 4)


ROUTES = [
    Route(
        "POST",
        "/api/inside/intervene",
        intervene,
        "The next token's probabilities with changes, beside the unchanged.",
        body=Intervention,
        answer=Consequences,
        statuses=STATUSES,
    )
]
