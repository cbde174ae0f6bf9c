"""POST /api/inside/…: a look inside a model, on one's own text; a module per subject."""

from __future__ import annotations

from microgpt.serve.api.inside import attention, intervene, lens, matrices, neurons

ROUTES = [*attention.ROUTES, *lens.ROUTES, *neurons.ROUTES, *matrices.ROUTES, *intervene.ROUTES]
