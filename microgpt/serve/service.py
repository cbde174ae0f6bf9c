"""All that the handlers of routes share."""

from __future__ import annotations

from dataclasses import dataclass

from microgpt.serve.admission import Admission
from microgpt.serve.models import Models


@dataclass(frozen=True, slots=True)
class Service:
    """The models, and who may use them."""

    models: Models
    admission: Admission
