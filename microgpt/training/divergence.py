"""The error of a step whose loss or gradient is not finite."""

from __future__ import annotations

import numpy as np

from microgpt.errors import NumericError
from microgpt.model import Tensors
from microgpt.training.prepare import RunSetup


def divergence(setup: RunSetup, step: int, tensors: Tensors, loss: float) -> NumericError:
    """The error for the step after `step`, with its documents and the largest of the weights before it."""
    weights = {name: a for name, a in tensors.items() if not name.startswith(("m.", "v."))}
    largest = max(weights, key=lambda name: float(np.nan_to_num(np.abs(weights[name]).max(), nan=np.inf)))
    rows, block = setup.rows_per_step, setup.config.model.block_size
    places = [setup.training.place(step * rows + i, block) + 1 for i in range(min(rows, 8))]
    what = "gradient" if np.isnan(loss) else "loss"
    return NumericError(
        f"step {step + 1}: the {what} is not finite ({loss}), with document {', '.join(map(str, places))} and "
        f"the largest weight {np.abs(weights[largest]).max():.3g} in {largest}; stopped before the update, step "
        f"{step} is saved; try a smaller --learning-rate or --clip-norm 1"
    )
