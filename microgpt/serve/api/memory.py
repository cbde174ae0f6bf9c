"""POST /api/memory: whether a text, or pieces of it, stand in the training text of a run."""

from __future__ import annotations

import functools
import os
from typing import Annotated

from pydantic import BaseModel, Field

from microgpt.config import Data
from microgpt.data.verbatim import Match, TrainingText, training_text
from microgpt.errors import MicrogptError
from microgpt.serve import limits
from microgpt.serve.limits import length
from microgpt.serve.models import in_turn
from microgpt.serve.openai.fields import Shape
from microgpt.serve.routes import Call, Route

LEAST = 16  # characters of a piece that is told beside the longest one
SECONDS = 1.0  # of searching
MOST_PIECES = 200


class MemoryBody(Shape):
    """A text that a model has generated."""

    model: limits.Name | None = None
    text: Annotated[str, length("searched_chars")]


class Piece(BaseModel):
    """A piece of the text that stands in the training text, and its first place there."""

    start: int = Field(description="in the text, in characters")
    end: int
    document: int = Field(description="counted from 1")
    held_out: bool = Field(description="whether this document was held out from training")
    before: str
    after: str


class Memory(BaseModel):
    """What of a text stands in the training text."""

    known: bool = Field(description="whether the training text could be searched; if not, `reason` says why")
    reason: str = ""
    source: str = ""
    unit: str = Field(default="document", description="what `document` counts")
    documents: int = 0
    whole: Piece | None = Field(
        default=None, description="a document that is this text, white space at its ends left out"
    )
    longest: Piece | None = None
    times: int = Field(default=0, description="how often the longest piece stands there")
    pieces: list[Piece] = Field(default=[], description=f"the longest at each place, of {LEAST} characters and more")
    searched: int = Field(default=0, description="characters of the text that were looked for in the time there is")


async def memory(call: Call) -> Memory:
    """Look a text up."""
    body: MemoryBody = call.body
    served = await call.service.models.get(body.model)
    data = served.model.config.data
    return await in_turn(call.service.heavy, lambda: look_up(data.model_dump_json(), body.text))


@functools.lru_cache(maxsize=2)
def _text(data: str) -> TrainingText:
    return training_text(Data.model_validate_json(data))


def look_up(data: str, text: str) -> Memory:
    """Look a text up in the training text of a data section, given as JSON."""
    try:
        found = _text(data)
    except (MicrogptError, OSError) as error:
        return Memory(known=False, reason=str(error) if isinstance(error, MicrogptError) else "it cannot be read")
    matches, searched = found.matches(text, 2, SECONDS)
    longest = max(matches, key=lambda match: match.end - match.start, default=None)
    stripped = text.strip()
    whole = found.whole(stripped)
    at = text.find(stripped)
    return Memory(
        known=True,
        source=os.path.basename(found.source) or found.source,
        unit=found.unit,
        documents=len(found.texts),
        whole=None if whole is None else _piece(found, Match(at, at + len(stripped), whole)),
        longest=longest and _piece(found, longest),
        times=found.joined.count(text[longest.start : longest.end]) if longest else 0,
        pieces=[_piece(found, match) for match in matches if match.end - match.start >= LEAST][:MOST_PIECES],
        searched=searched,
    )


def _piece(found: TrainingText, match: Match) -> Piece:
    start, end, place = match
    number = found.document(place)
    before, after = found.around(place, end - start)
    return Piece(
        start=start, end=end, document=number + 1, held_out=number in found.held_out, before=before, after=after
    )


ROUTES = [
    Route(
        "POST",
        "/api/memory",
        memory,
        "Whether a text stands in the training text.",
        body=MemoryBody,
        answer=Memory,
        statuses={404: "no model of that name"},
    )
]
