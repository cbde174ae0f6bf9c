"""Interventions: parts of a model scaled or switched off, by changing weights alone.

A part adds to the residual stream through one matrix: a head through its columns of attn_wo, a neuron through its
column of mlp_fc2. A column scaled by s scales what the part adds by s, whatever the model's options; 0 switches it off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from microgpt.config import Model
from microgpt.errors import UsageError
from microgpt.model import Tensors

PartOfLayer = Literal["layer", "attention", "mlp", "head", "neuron"]


@dataclass(frozen=True, slots=True)
class Change:
    """A part of a layer, and the factor of what it adds to the residual stream."""

    part: PartOfLayer
    layer: int
    index: int = 0  # of the head or neuron
    scale: float = 0.0


def apply(weights: Tensors, model: Model, changes: Sequence[Change]) -> Tensors:
    """Weights with every change made; matrices without a change are shared. Raises UsageError for a missing part."""
    changed = dict(weights)
    for change in changes:
        for name, columns in _columns(model, change):
            if changed[name] is weights[name]:
                changed[name] = weights[name].copy()
            changed[name][:, columns] *= change.scale
    return changed


def _columns(model: Model, change: Change) -> Iterator[tuple[str, slice]]:
    """The matrices and columns through which a part adds to the residual stream."""
    part, layer, index = change.part, change.layer, change.index
    counts = {"head": model.n_head, "neuron": 4 * model.n_embd}
    if not 0 <= layer < model.n_layer:
        raise UsageError(f"layer {layer} does not exist; this model's layers are 0 to {model.n_layer - 1}")
    if not 0 <= index < counts.get(part, 1):
        raise UsageError(f"{part} {index} does not exist; expected 0 to {counts.get(part, 1) - 1}")
    width = {"head": model.head_dim, "neuron": 1}.get(part)
    columns = slice(None) if width is None else slice(index * width, (index + 1) * width)
    if part in ("layer", "attention", "head"):
        yield f"layer{layer}.attn_wo", columns
    if part in ("layer", "mlp", "neuron"):
        yield f"layer{layer}.mlp_fc2", columns
