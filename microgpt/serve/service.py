"""All that the handlers of routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from microgpt.serve.admission import Admission
from microgpt.serve.metrics import Metrics
from microgpt.serve.models import Models
from microgpt.serve.trainings import Trainings
from microgpt.serve.watching import Watching


@dataclass(frozen=True, slots=True)
class Service:
    """The models, who may use them, what is counted, the runs that are watched, and the document of all routes."""

    models: Models
    admission: Admission
    metrics: Metrics
    watching: Watching = field(default_factory=Watching)
    trainings: Trainings | None = None  # where trainings may be controlled
    openapi: dict[str, Any] = field(default_factory=dict)
