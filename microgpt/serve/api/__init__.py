"""The routes that the page asks beside the public ones, one module per subject."""

from __future__ import annotations

from microgpt.serve.api import inside, memory, play, runs

ROUTES = [*runs.ROUTES, *play.ROUTES, *memory.ROUTES, *inside.ROUTES]
