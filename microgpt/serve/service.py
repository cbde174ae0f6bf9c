"""All that the handlers of routes share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from microgpt.serve.admission import Admission
from microgpt.serve.metrics import Metrics
from microgpt.serve.models import Models
from microgpt.serve.trainings import Trainings
from microgpt.serve.watching import Watching

MOST_HEAVY = 2  # requests of the page that read or compute much, at a time; the others wait


@dataclass(frozen=True, slots=True)
class Service:
    """The models, who may use them, what is counted, the runs that are watched, and the document of all routes."""

    models: Models
    admission: Admission
    metrics: Metrics
    watching: Watching = field(default_factory=Watching)
    trainings: Trainings | None = None  # where trainings may be controlled
    heavy: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_HEAVY))  # turns of long work
    openapi: dict[str, Any] = field(default_factory=dict)
