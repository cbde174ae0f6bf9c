"""POST /api/memory: whether a text, or pieces of it, stand in the training text of a run."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from microgpt.config import Data
from microgpt.data.here import here, sources_of
from microgpt.data.verbatim import Match, TrainingText, training_text
from microgpt.errors import DataError, MicrogptError
from microgpt.runs import checkpoint
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
    model = served.model
    return await in_turn(call.service.heavy, lambda: look_up(model.config.data, body.text, model.path))


@functools.lru_cache(maxsize=2)
def _text(data: str, files: tuple[tuple[int, ...], ...]) -> TrainingText:
    """The text of a data section, given as JSON, in files of this state."""
    return training_text(Data.model_validate_json(data))


def _state(data: Data) -> tuple[tuple[int, ...], ...]:
    """The files of a data section: another tuple once one of them has changed."""
    found = [os.stat(source.path) for source in sources_of(data) if source.path]
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def _require_same(data: Data, found: TrainingText, path: Path) -> None:
    """Raise DataError for a stand-in that the model at a path was not trained on."""
    if here(data) != data and found.unit == "document":
        known = (checkpoint.read(path).state.get("data") or {}).get("documents")
        if known not in (None, len(found.texts)):
            raise DataError(f"the data set {data.dataset} is not on this machine")


def look_up(data: Data, text: str, path: Path | None = None) -> Memory:
    """Look a text up in the training text of a data section, of the model at a path."""
    try:
        found = _text(data.model_dump_json(), _state(data))
        if path:
            _require_same(data, found, path)
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
