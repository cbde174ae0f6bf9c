"""The model once more, in plain formulas, for many sets of weights at once: a reference that shares no code with
any engine. One call gives the loss at every nudged weight, hence central differences on all parameters.

Legend: P sets of weights, T positions, D n_embd, H heads, S head size, V vocabulary. Matrices are (P, out, in).
"""

from __future__ import annotations

import numpy as np

from microgpt.config import Model
from microgpt.engines.common.dropout import scales
from microgpt.feed import Feed
from microgpt.model import Tensors, table

Array = np.ndarray


def losses(model: Model, w: Tensors, feed: Feed, dropping: bool = True) -> Array:
    """The loss (P,) of the feed's first step for each of P sets of weights (P, out, in)."""
    total: Array | float = 0.0
    for row, (tokens, scored) in enumerate(feed.rows(0)):
        drops = dropout(model, feed, row, len(tokens) - 1) if dropping else [1.0] * (2 * model.n_layer + 1)
        z = logits(model, w, tokens[:-1], drops)
        z = z - z.max(-1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        total = total - sum(log_p[:, t, target] for t, target in enumerate(tokens[1:]) if scored[t + 1])
    return np.asarray(total / max(1, feed.targets(0)))


def dropout(model: Model, feed: Feed, row: int, T: int) -> list[Array]:
    places = range(2 * model.n_layer + 1)
    return [scales(model.dropout, feed.seed, feed.first_step, row, place, T, model.n_embd) for place in places]


def logits(model: Model, w: Tensors, tokens: list[int], drops: list) -> Array:
    """Logits (P, T, V) of one row."""
    T, H, S = len(tokens), model.n_head, model.head_dim
    x = w["wte"][:, tokens]
    if model.position == "learned":
        x = x + w["wpe"][:, :T]
    x = (norm(x) if model.norm_embedding else x) * drops[0]
    for i in range(model.n_layer):
        heads = {}
        for name in "qkv":
            y = norm(x) @ w[f"layer{i}.attn_w{name}"].swapaxes(-1, -2)
            heads[name] = y.reshape(*y.shape[:-1], H, S).swapaxes(1, 2)
        q, k = (turn(heads[name], model) if model.position == "rope" else heads[name] for name in "qk")
        q, k = (norm(y) if model.qk_norm else y for y in (q, k))
        fit = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(S)) * np.tri(T)
        mixed = (fit / fit.sum(-1, keepdims=True) @ heads["v"]).swapaxes(1, 2).reshape(-1, T, H * S)
        x = x + mixed @ w[f"layer{i}.attn_wo"].swapaxes(-1, -2) * drops[2 * i + 1]
        h = norm(x) @ w[f"layer{i}.mlp_fc1"].swapaxes(-1, -2)
        x = x + bend(h, model.activation) @ w[f"layer{i}.mlp_fc2"].swapaxes(-1, -2) * drops[2 * i + 2]
    x = norm(x) if model.final_norm else x
    z = x @ w["wte" if model.tie_embeddings else "lm_head"].swapaxes(-1, -2)
    return model.softcap * np.tanh(z / model.softcap) if model.softcap else z


def norm(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def turn(x: Array, model: Model) -> Array:
    """RoPE of (P, H, T, S) by complex multiplication: each pair of channels is a number that turns."""
    T, S = x.shape[-2:]
    first = slice(0, S, 2) if model.rope_pairs == "interleaved" else slice(0, S // 2)
    second = slice(1, S, 2) if model.rope_pairs == "interleaved" else slice(S // 2, S)
    speed = model.rope_base ** (-np.arange(0, S, 2) / S)
    z = (x[..., first] + 1j * x[..., second]) * np.exp(1j * np.outer(np.arange(T), speed))
    out = np.empty_like(x)
    out[..., first], out[..., second] = z.real, z.imag
    return out


def bend(h: Array, activation: str) -> Array:
    if activation == "gelu":
        return h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return np.maximum(h, 0) ** (2 if activation == "relu2" else 1)


def differences(model: Model, tensors: Tensors, feed: Feed, h: float) -> Tensors:
    """(f(w + h) - f(w - h)) / 2h for every weight: its error is of order h^2 f'''/6 + 1e-16 f/h."""
    out = {}
    for name, shape, _ in table(model):
        n = shape[0] * shape[1]
        nudge = h * np.eye(n).reshape(n, *shape)
        ends = []
        for sign in (1, -1):
            w = {other: a[None] for other, a in tensors.items()}
            w[name] = tensors[name] + sign * nudge
            ends.append(losses(model, w, feed))
        out[name] = ((ends[0] - ends[1]) / (2 * h)).reshape(shape)
    return out
