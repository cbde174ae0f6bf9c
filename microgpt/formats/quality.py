"""The cost of fewer bits: loss and bits per byte of a model as it is, and after it was stored smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microgpt.engines.ladder import choose
from microgpt.inference.evaluate import evaluate
from microgpt.inference.language_model import LanguageModel
from microgpt.model import Tensors
from microgpt.runs import tensors
from microgpt.runs.checkpoint import Checkpoint


def table(
    saved: Checkpoint, storages: Sequence[str], path: str | None = None, to: str = "safetensors"
) -> tuple[list[dict[str, Any]], str]:
    """A row per storage, the model as it is first, and the text it was measured on.

    That is the file `path`, else the text that the run held out, else its training text. A row has storage, loss
    (nats per token) and bits_per_byte. Raises DataError, UsageError or OSError where the text cannot be read.
    """
    config, weights = saved.config, saved.weights()
    choice = choose(config.model, config.optim, dtype=str(weights["wte"].dtype))
    engine = choice.build(config.model, config.optim)
    rows = []
    about = ""
    for stored in (str(weights["wte"].dtype), *storages):
        state = engine.load(rounded(weights, stored, to))
        found = evaluate(LanguageModel(saved.path, config, saved.tokenizer, engine, state), path, samples=0)
        rows.append({"storage": stored, "loss": found.loss, "bits_per_byte": found.bits_per_byte})
        about = f"{found.documents} documents of {found.data}"
    return rows, about


def rounded(weights: Tensors, storage: str, to: str) -> Tensors:
    """The weights after the format `to` stored them as `storage` and they were read back."""
    if to == "gguf":  # its int8 has a scale per 32 numbers, not per row
        from microgpt.formats import gguf

        return gguf.rounded(weights, storage)
    return tensors.rounded(weights, storage)
