"""The nodes of the tensor rung's graph by the names of operations.py: a node for every operation.

The rung computes its step as it always does, and the graph that it leaves is taken apart from the logits back to the
embedding, formula by formula. So the numbers shown are those that the rung computes.
"""

from __future__ import annotations

from microgpt.config import Model
from microgpt.engines.tensor import Tensor, Weights

Nodes = dict[str, Tensor]


def nodes_of(model: Model, w: Weights, logits: Tensor) -> Nodes:
    """The node of each operation up to the logits, by name, given `tensor.forward`'s result."""
    found: Nodes = {}
    if model.softcap:  # (z * (1 / cap)).tanh() * cap
        found["softcap"] = logits
        logits = first(logits, 3)
    found["logits"] = logits
    x = first(logits)
    _require(logits.children[1], w["wte" if model.tie_embeddings else "lm_head"])
    if model.final_norm:
        found["final_norm"] = x
        x = first(x)
    for i in reversed(range(model.n_layer)):
        x = _layer(model, w, i, x, found)
    if model.dropout:
        found["embedding_dropout"] = x
        x = first(x)
    if model.norm_embedding:
        found["embedding_norm"] = x
        x = first(x)
    if model.position == "learned":
        found["embedding"] = x
        x, found["position"] = x.children
    found["token"] = x
    if first(x) is not w["wte"]:
        raise AssertionError("the graph does not begin at the embedding")
    return found


def _layer(model: Model, w: Weights, i: int, x: Tensor, found: Nodes) -> Tensor:
    """Names the nodes of layer i, given its output; returns its input."""

    def name(part: str, node: Tensor) -> Tensor:
        found[f"layer{i}.{part}"] = node
        return node

    def linear(part: str, node: Tensor, weight: str) -> Tensor:
        """x W^T: its input."""
        x, transposed = name(part, node).children
        _require(transposed, w[f"layer{i}.{weight}"])
        return x

    branch, x = name("mlp_residual", x).children
    if model.dropout:
        branch = first(name("mlp_dropout", branch))
    h = name("activation", linear("fc2", branch, "mlp_fc2"))
    # relu: h.relu(); relu2: h.relu() ** 2; gelu: h * 0.5 * (…).tanh() + h * 0.5
    h = {"relu": first(h), "relu2": first(h, 2), "gelu": first(h.children[-1])}[model.activation]
    first(name("mlp_norm", linear("fc1", h, "mlp_fc1")))
    branch, x = name("attention_residual", x).children
    if model.dropout:
        branch = first(name("attention_dropout", branch))
    joined = linear("projection", branch, "attn_wo")
    weights, v = name("mix", first(joined, 2)).children  # reshape of swap
    e = first(name("attention", weights))  # e / e.sum() is e * e.sum() ** -1
    scores = first(e, 3)  # exp of + -max of + mask
    q, transposed = first(name("scores", scores)).children
    for part, weight, node in (("query", "wq", q), ("key", "wk", first(transposed)), ("value", "wv", v)):
        if model.qk_norm and part != "value":
            node = first(name(f"{part}_norm", node))
        if model.position == "rope" and part != "value":
            node = first(name(f"{part}_rotation", node), 2)  # x * cos + x.exchange(partner) * sin
        norm = linear(part, first(node, 2), f"attn_{weight}")  # split: swap of reshape
    return first(name("attention_norm", norm))


def first(node: Tensor, depth: int = 1) -> Tensor:
    """The first child of the first child …, `depth` times."""
    for _ in range(depth):
        node = node.children[0]
    return node


def _require(transposed: Tensor, weight: Tensor) -> None:
    """That a product is with this weight: the graph was taken apart as it was put together."""
    if first(transposed) is not weight:
        raise AssertionError("the graph is not the one of these operations")
