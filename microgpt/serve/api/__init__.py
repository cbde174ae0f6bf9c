"""The routes that the page asks beside the public ones, one module per subject."""

from __future__ import annotations

from microgpt.serve.api import differences, inside, memory, metrics, play, runs, steps, trainings

ROUTES = [
    *runs.ROUTES,
    *differences.ROUTES,
    *inside.ROUTES,
    *memory.ROUTES,
    *metrics.ROUTES,
    *play.ROUTES,
    *steps.ROUTES,
    *trainings.ROUTES,
]
