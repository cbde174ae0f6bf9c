"""The cost of fewer bits: loss and bits per byte of a model as it is, and after it was stored smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microgpt.engines.ensemble import Ensemble
from microgpt.engines.ladder import choose
from microgpt.inference.evaluate import evaluate
from microgpt.inference.language_model import LanguageModel
from microgpt.model import Tensors
from microgpt.runs import tensors
from microgpt.runs.checkpoint import Checkpoint


def table(
    saved: Checkpoint,
    storages: Sequence[str],
    path: str | None = None,
    to: str = "safetensors",
    others: Sequence[Checkpoint] = (),
) -> tuple[list[dict[str, Any]], str]:
    """A row per storage, the model as it is first, and the text it was measured on; `others` make it an ensemble.

    That is the file `path`, else the text that the run held out, else its training text. A row has storage, loss
    (nats per token) and bits_per_byte. Raises DataError, UsageError or OSError where the text cannot be read.
    """
    members = [(each.config, each.weights()) for each in (saved, *others)]
    dtype = str(members[0][1]["wte"].dtype)
    engines = [choose(c.model, c.optim, dtype=str(w["wte"].dtype)).build(c.model, c.optim) for c, w in members]
    config, engine = saved.config, engines[0]
    if others:
        config = config.replace(model={"block_size": min(c.model.block_size for c, _ in members)})
        engine = Ensemble(engines)
    rows = []
    about = ""
    for stored in (dtype, *storages):
        states = [own.load(rounded(weights, stored, to)) for own, (_, weights) in zip(engines, members, strict=True)]
        state = states if others else states[0]
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
