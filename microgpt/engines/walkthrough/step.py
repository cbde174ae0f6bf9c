"""A training step on one row of tokens in float64: forward, backward and the update of Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines import tensor
from microgpt.engines.common.arrays import dropout_masks, rope_tables
from microgpt.engines.tensor import Tensor
from microgpt.engines.walkthrough.graph import nodes_of
from microgpt.engines.walkthrough.operations import HEADS, Operation, operations
from microgpt.feed import Feed, MicroBatch
from microgpt.model import Tensors, n_params

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Step:
    """All numbers of a step. A masked score, of a key after its query, is nan."""

    operations: list[Operation]
    constants: dict[str, dict[str, Any]]  # by operation: what its formula needs beside its inputs
    values: Tensors  # of every operation, by name
    gradients: Tensors  # of the loss with respect to every operation, and to every weight
    before: Tensors  # weights and moments
    after: Tensors
    norm: float  # of the gradient
    scale: float  # its factor, where it is clipped


def count_numbers(model: Model, T: int) -> int:
    """Numbers of a step with T positions: values and gradients, and for weights the moments before and after, too."""
    per_position = 24 * model.n_embd + 3 * model.n_head * model.block_size + 3 * model.vocab
    return 7 * n_params(model) + 2 * T * model.n_layer * per_position


def take_step(model: Model, optim: Optim, tensors: Tensors, feed: Feed, lr: float) -> Step:
    """The first step of a feed, whose rows are one, with the tensors (weights and moments) of a checkpoint."""
    (rows,) = feed.micro_batches(0)
    if len(rows.inputs) != 1:
        raise ValueError("a walkthrough is of one row")
    engine = tensor.Engine(model, optim, dtype="float64")
    state = engine.load(tensors)
    before = engine.dump(state)
    with np.errstate(all="ignore"):
        drops = dropout_masks(model, feed, rows, feed.first_step, "float64")
        nodes = _loss(model, state.w, rows, drops)
        nodes["loss"].backward()
        weights = {name: _array(p.grad, p.data) for name, p in state.w.items()}
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in weights.values()))
        scale = rules.clip_scale(norm, optim.clip_norm)
        after = _updated(before, weights, optim, feed.first_step, lr, scale)
    found = operations(model)
    values = {each.name: _present(each, nodes[each.name].data) for each in found}
    gradients = {each.name: _present(each, _array(nodes[each.name].grad, nodes[each.name].data)) for each in found}
    return Step(found, _constants(model, found, rows, drops), values, gradients | weights, before, after, norm, scale)


def _loss(model: Model, w: tensor.Weights, rows: MicroBatch, drops: list[Array]) -> dict[str, Tensor]:
    """The rung's forward pass, and the loss after it in the operations of gpt.py, which has the probabilities as
    numbers of their own: the rung's cross entropy has none."""
    logits = tensor.forward(model, w, rows.inputs, drops=drops)
    nodes = nodes_of(model, w, logits)
    nodes["probabilities"] = probabilities = tensor.softmax(logits)
    targets = rows.targets.ravel()
    nodes["losses"] = losses = -probabilities.take(np.arange(len(targets)), targets).log()
    nodes["loss"] = (losses * rows.weights.ravel()).sum()
    return nodes


def _updated(before: Tensors, gradients: Tensors, optim: Optim, step: int, lr: float, scale: float) -> Tensors:
    after: Tensors = {}
    for name, g in gradients.items():
        after[name], after[f"m.{name}"], after[f"v.{name}"] = rules.adam(
            before[name], g * scale, before[f"m.{name}"], before[f"v.{name}"], optim, step, lr
        )
    return after


def _array(grad: Any, like: Array) -> Array:
    """A gradient as an array: that of a number which the loss does not depend on is the number 0."""
    return np.broadcast_to(np.asarray(grad, like.dtype), like.shape)


def _present(operation: Operation, x: Array) -> Array:
    """A node's array in the axes of its operation: (T, D) for what the rung holds by head."""
    if operation.axes == HEADS:
        scores = x[0].copy()
        scores[:, np.triu(np.ones(scores.shape[1:], bool), k=1)] = np.nan
        return scores
    if x.ndim == 4:  # (1, H, T, size)
        return x[0].swapaxes(0, 1).reshape(x.shape[2], -1)
    return x.reshape(()) if not operation.axes else x


def _constants(model: Model, found: list[Operation], rows: MicroBatch, drops: list[Array]) -> dict[str, dict[str, Any]]:
    """By operation: the numbers of its formula that are neither inputs nor the same in every model."""
    T, size = rows.inputs.shape[1], model.head_dim
    tables: tuple[Array, ...] = ()
    if model.position == "rope":
        tables = rope_tables(0, T, size, model.rope_base, model.rope_pairs, "float64")
    masks = iter(drops)
    out: dict[str, dict[str, Any]] = {}
    for each in found:
        given: dict[str, Any] = {}
        if each.kind == "take":
            given = {"rows": rows.inputs[0] if each.role == "token" else np.arange(T)}
        elif each.kind == "norm":
            given = {"size": size if each.role == "head_norm" else model.n_embd}
        elif each.kind == "rotate":
            given = {"size": size, **dict(zip(("cos", "sin", "partner"), tables, strict=True))}
        elif each.kind in ("scores", "mix"):
            given = {"size": size}
        elif each.kind == "scale":
            given = {"factors": next(masks)}
        elif each.kind == "softcap":
            given = {"cap": model.softcap}
        elif each.kind == "losses":
            given = {"targets": rows.targets[0]}
        elif each.kind == "mean":
            given = {"weights": rows.weights[0]}
        out[each.name] = given
    return out
