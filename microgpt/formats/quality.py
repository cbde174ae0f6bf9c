"""What fewer bits cost: loss and bits per byte of a model as it is, and as it is after it was stored smaller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from microgpt.engines import choose
from microgpt.inference.evaluate import evaluate
from microgpt.model import Tensors
from microgpt.runs import tensors
from microgpt.runs.checkpoint import Checkpoint

Rounding = Callable[[Tensors, str], Tensors]  # what is left of tensors after they were stored so


def table(
    saved: Checkpoint, storages: Sequence[str], path: str | None = None, rounded: Rounding = tensors.rounded
) -> tuple[list[dict[str, Any]], str]:
    """A row a storage, the model as it is first, and the text it was measured on.

    That is the file `path`, else what the run held out, else its training text. A row has storage, loss (nats a
    token) and bits_per_byte. Raises DataError, UsageError or OSError where the text is not to be had.
    """
    config, weights = saved.config, saved.weights()
    choice = choose(config.model, config.optim, dtype=str(weights["wte"].dtype))
    engine = choice.cls(config.model, config.optim, dtype=choice.dtype, device=choice.device)
    rows = []
    about = ""
    for stored in (str(weights["wte"].dtype), *storages):
        state = engine.load(rounded(weights, stored))
        found = evaluate(engine, state, config, saved.tokenizer, path, samples=0)
        rows.append({"storage": stored, "loss": found.loss, "bits_per_byte": found.bits_per_byte})
        about = f"{found.documents} documents of {found.data}"
    return rows, about
