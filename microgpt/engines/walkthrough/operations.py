"""The operations of a training step, in the order in which a model computes them.

They follow from the configuration alone, and are those that a reader of gpt.py finds there: rotations, norms of heads,
dropout and the like come in where a model has them.

Legend: T positions, D n_embd, H heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from microgpt.config import Model

Kind = Literal[
    "take", "add", "norm", "linear", "rotate", "scores", "softmax", "mix", "scale", "relu", "relu2", "gelu", "softcap",
    "losses", "mean",
]  # fmt: skip


class Operation(NamedTuple):
    """One operation: the arrays it reads and the one it computes, which has the operation's name."""

    name: str  # "layer0.query"
    role: str  # "query": the same in every layer; lines.py cites the source by it
    layer: int | None
    kind: Kind  # the formula
    inputs: tuple[str, ...]  # operations before it, and weights
    axes: tuple[str, ...]  # of its array


STREAM = ("position", "channel")
HEADS = ("head", "position", "key")


def operations(model: Model) -> list[Operation]:
    """The operations from the embedding to the loss."""
    return list(_operations(model))


def _operations(model: Model) -> Iterator[Operation]:
    yield Operation("token", "token", None, "take", ("wte",), STREAM)
    x = "token"
    if model.position == "learned":
        yield Operation("position", "position", None, "take", ("wpe",), STREAM)
        yield Operation("embedding", "embedding", None, "add", (x, "position"), STREAM)
        x = "embedding"
    if model.norm_embedding:
        yield Operation("embedding_norm", "embedding_norm", None, "norm", (x,), STREAM)
        x = "embedding_norm"
    if model.dropout:
        yield Operation("embedding_dropout", "dropout", None, "scale", (x,), STREAM)
        x = "embedding_dropout"
    for i in range(model.n_layer):
        found = list(_layer(model, i, x))
        yield from found
        x = found[-1].name
    if model.final_norm:
        yield Operation("final_norm", "final_norm", None, "norm", (x,), STREAM)
        x = "final_norm"
    head, scores = "wte" if model.tie_embeddings else "lm_head", ("position", "token")
    yield Operation("logits", "logits", None, "linear", (x, head), scores)
    z = "logits"
    if model.softcap:
        yield Operation("softcap", "softcap", None, "softcap", (z,), scores)
        z = "softcap"
    yield Operation("probabilities", "probabilities", None, "softmax", (z,), scores)
    yield Operation("losses", "losses", None, "losses", ("probabilities",), ("position",))
    yield Operation("loss", "loss", None, "mean", ("losses",), ())


def _layer(model: Model, i: int, x: str) -> Iterator[Operation]:
    """The operations of a layer that reads the array x; the last one is its output."""

    def one(role: str, kind: Kind, *inputs: str, axes: tuple[str, ...] = STREAM, name: str = "") -> Operation:
        return Operation(f"layer{i}.{name or role}", role, i, kind, inputs, axes)

    def weight(name: str) -> str:
        return f"layer{i}.{name}"

    yield one("attention_norm", "norm", x)
    heads = []
    for name, short in (("query", "wq"), ("key", "wk"), ("value", "wv")):
        yield one(name, "linear", f"layer{i}.attention_norm", weight(f"attn_{short}"))
        heads.append(f"layer{i}.{name}")
    for j, name in enumerate(("query", "key")):
        if model.position == "rope":
            yield one("rotation", "rotate", heads[j], name=f"{name}_rotation")
            heads[j] = f"layer{i}.{name}_rotation"
        if model.qk_norm:
            yield one("head_norm", "norm", heads[j], name=f"{name}_norm")
            heads[j] = f"layer{i}.{name}_norm"
    yield one("scores", "scores", heads[0], heads[1], axes=HEADS)
    yield one("attention", "softmax", f"layer{i}.scores", axes=HEADS)
    yield one("mix", "mix", f"layer{i}.attention", heads[2])
    yield one("projection", "linear", f"layer{i}.mix", weight("attn_wo"))
    branch = f"layer{i}.projection"
    if model.dropout:
        yield one("dropout", "scale", branch, name="attention_dropout")
        branch = f"layer{i}.attention_dropout"
    yield one("attention_residual", "add", branch, x)
    yield one("mlp_norm", "norm", f"layer{i}.attention_residual")
    yield one("fc1", "linear", f"layer{i}.mlp_norm", weight("mlp_fc1"))
    yield one("activation", model.activation, f"layer{i}.fc1")
    yield one("fc2", "linear", f"layer{i}.activation", weight("mlp_fc2"))
    branch = f"layer{i}.fc2"
    if model.dropout:
        yield one("dropout", "scale", branch, name="mlp_dropout")
        branch = f"layer{i}.mlp_dropout"
    yield one("mlp_residual", "add", branch, f"layer{i}.attention_residual")
