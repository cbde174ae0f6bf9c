"""All that the handlers of routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from microgpt.serve.admission import Admission
from microgpt.serve.metrics import Metrics
from microgpt.serve.models import Models


@dataclass(frozen=True, slots=True)
class Service:
    """The models, who may use them, what is counted, and the document of all routes."""

    models: Models
    admission: Admission
    metrics: Metrics
    openapi: dict[str, Any] = field(default_factory=dict)
