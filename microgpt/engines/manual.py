"""No graph: the backward pass by hand, all positions of all rows at once.

Every function has its derivative beside it, as docs/model.md derives it. Matrix products are BLAS's. Rows are padded
to rectangles; padding has weight 0 in the loss and lies after every real position, so it changes no gradient.

Longer than 350 lines, because a rung is read from top to bottom in one file.

Legend: B rows, T positions, N = B T, D n_embd, H heads, V vocabulary. A gradient is d + name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from microgpt import engines
from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.common.arrays import causal_mask, dropout_masks, rope_tables
from microgpt.feed import Feed, MicroBatch
from microgpt.model import Tensors, table

Array = np.ndarray
Weights = dict[str, Array]


def linear(x: Array, w: Array) -> Array:
    """y = x W^T: (N, in), (out, in) -> (N, out)."""
    return x @ w.T


def linear_back(dy: Array, x: Array, w: Array, dw: Array) -> Array:
    """dx = dy W; dW += dy^T x."""
    dw += dy.T @ x
    return dy @ w


def rmsnorm(x: Array) -> tuple[Array, Array]:
    """y = x r with r = 1 / sqrt(mean(x^2) + 1e-5), over the last axis; returns (y, r)."""
    r = 1.0 / np.sqrt(np.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1] + 1e-5)
    return x * r, r


def rmsnorm_back(dy: Array, y: Array, r: Array) -> Array:
    """dx = r (dy - y mean(dy y))."""
    return (dy - y * (np.einsum("...d,...d->...", dy, y)[..., None] / y.shape[-1])) * r


def rotate(x: Array, rope: tuple[Array, Array, Array]) -> Array:
    """Rotate channel pairs of (..., T, size) by their position's angle."""
    cos, sin, partner = rope
    return x * cos + x[..., partner] * sin


def rotate_back(dy: Array, rope: tuple[Array, Array, Array]) -> Array:
    """The derivative of a rotation is the rotation by the opposite angle."""
    cos, sin, partner = rope
    return dy * cos - dy[..., partner] * sin


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis, in place, shifted by the maximum so that nothing overflows."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def softmax_back(dp: Array, p: Array) -> Array:
    """dx = p (dp - sum(dp p)), in place of dp."""
    dp -= np.einsum("...t,...t->...", dp, p)[..., None]
    dp *= p
    return dp


GELU = math.sqrt(2 / math.pi)


def activate(x: Array, activation: str) -> Array:
    """ReLU, its square, or GELU in its tanh form."""
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "relu2":
        return np.maximum(x, 0) ** 2
    return 0.5 * x * (1 + np.tanh(GELU * (x + 0.044715 * x * x * x)))


def activate_back(dy: Array, x: Array, activation: str) -> Array:
    """dx from dy and the activation's input."""
    if activation == "relu":
        return dy * (x > 0)
    if activation == "relu2":
        return dy * (2 * np.maximum(x, 0))
    t = np.tanh(GELU * (x + 0.044715 * x * x * x))
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * GELU * (1 + 3 * 0.044715 * x * x))


def attention(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """softmax(q k^T / sqrt(size)) v, causal: (B, H, T, size), (B, H, S, size) -> (B, H, T, size) and weights."""
    scores = q @ k.swapaxes(-1, -2)
    scores *= q.shape[-1] ** -0.5
    scores += causal_mask(q.shape[-2], k.shape[-2], str(q.dtype))
    p = softmax(scores)
    return p @ v, p


def attention_back(dy: Array, p: Array, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """dq, dk, dv."""
    ds = softmax_back(dy @ v.swapaxes(-1, -2), p)
    ds *= q.shape[-1] ** -0.5
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy


def split(x: Array, B: int, H: int) -> Array:
    """(N, D) -> (B, H, T, D / H), a view."""
    return x.reshape(B, -1, H, x.shape[1] // H).transpose(0, 2, 1, 3)


def join(x: Array) -> Array:
    """(B, H, T, size) -> (N, D)."""
    B, H, T, size = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B * T, H * size)


class Head(NamedTuple):
    """Queries or keys after rotation and norm, and the norm's scale."""

    y: Array
    r: Array | None


class Layer(NamedTuple):
    """The activations of one layer that the backward pass needs."""

    n1: Array
    r1: Array
    q: Head
    k: Head
    v: Array
    p: Array
    mix: Array
    n2: Array
    r2: Array
    h: Array
    a: Array


class Cache:
    """Keys and values (1, H, S, size) of each layer, S the positions so far."""

    def __init__(self, model: Model, dtype: str) -> None:
        empty = np.empty((1, model.n_head, model.block_size, model.head_dim), dtype)
        self.length = 0
        self.keys = [empty.copy() for _ in range(model.n_layer)]
        self.values = [empty.copy() for _ in range(model.n_layer)]

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append a layer's new keys and values; returns all of them."""
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class Trace(NamedTuple):
    """The activations of a forward pass that the backward pass needs."""

    r0: Array | None
    x0: Array
    layers: list[Layer]
    x: Array
    r: Array | None
    logits: Array


def head_forward(x: Array, model: Model, rope: Any) -> Head:
    """Rotation and norm of queries or keys, where the model has them."""
    if rope is not None:
        x = rotate(x, rope)
    return Head(*rmsnorm(x)) if model.qk_norm else Head(x, None)


def head_back(dy: Array, head: Head, rope: Any) -> Array:
    """The gradient before norm and rotation, given the one after them."""
    if head.r is not None:
        dy = rmsnorm_back(dy, head.y, head.r)
    return rotate_back(dy, rope) if rope is not None else dy


def tables(model: Model, first: int, T: int, dtype: str) -> Any:
    """The RoPE tables of T positions from `first` on, or None for a model without RoPE."""
    if model.position != "rope":
        return None
    return rope_tables(first, T, model.head_dim, model.rope_base, model.rope_pairs, dtype)


def forward(model: Model, w: Weights, tokens: Array, cache: Cache | None = None, drops: Sequence[Array] = ()) -> Trace:
    """Logits (N, V) of tokens (B, T) and the activations that the backward pass needs. A cache continues one row."""
    B, T = tokens.shape
    first = cache.length if cache else 0
    rope = tables(model, first, T, str(w["wte"].dtype))
    x = w["wte"][tokens.ravel()]
    if model.position == "learned":
        x = (x.reshape(B, T, -1) + w["wpe"][first : first + T]).reshape(B * T, -1)
    r0 = None
    if model.norm_embedding:
        x, r0 = rmsnorm(x)
    x0 = x
    if drops:
        x = x * drops[0]
    layers = []
    for i in range(model.n_layer):
        n1, r1 = rmsnorm(x)
        q = head_forward(split(linear(n1, w[f"layer{i}.attn_wq"]), B, model.n_head), model, rope)
        k = head_forward(split(linear(n1, w[f"layer{i}.attn_wk"]), B, model.n_head), model, rope)
        v = split(linear(n1, w[f"layer{i}.attn_wv"]), B, model.n_head)
        keys, values = cache.extend(i, k.y, v) if cache else (k.y, v)
        y, p = attention(q.y, keys, values)
        mix = join(y)
        o = linear(mix, w[f"layer{i}.attn_wo"])
        x = x + (o * drops[2 * i + 1] if drops else o)
        n2, r2 = rmsnorm(x)
        h = linear(n2, w[f"layer{i}.mlp_fc1"])
        a = activate(h, model.activation)
        o = linear(a, w[f"layer{i}.mlp_fc2"])
        x = x + (o * drops[2 * i + 2] if drops else o)
        layers.append(Layer(n1, r1, q, k, v, p, mix, n2, r2, h, a))
    if cache:
        cache.length += T
    r = None
    if model.final_norm:
        x, r = rmsnorm(x)
    logits = linear(x, w["wte" if model.tie_embeddings else "lm_head"])
    if model.softcap:
        logits = model.softcap * np.tanh(logits / model.softcap)
    return Trace(r0, x0, layers, x, r, logits)


def activations(w: Weights, trace: Trace) -> engines.Activations:
    """The trace of one row by name, with the residual stream, which is added up once more."""
    x = trace.x0
    found = {"embedding": x}
    for i, s in enumerate(trace.layers):
        after_attention = x + linear(s.mix, w[f"layer{i}.attn_wo"])
        x = after_attention + linear(s.a, w[f"layer{i}.mlp_fc2"])
        parts = {
            "q": s.q.y[0],
            "k": s.k.y[0],
            "v": s.v[0],
            "attention": s.p[0],
            "mix": split(s.mix, 1, s.p.shape[1])[0],
        }
        parts |= {"after_attention": after_attention, "mlp": s.a, "after_mlp": x}
        found |= {f"layer{i}.{name}": a for name, a in parts.items()}
    return found | {"final": trace.x, "logits": trace.logits}


def cross_entropy(logits: Array, targets: Array, weights: Array) -> tuple[float, Array]:
    """The weighted sum of -log softmax(logits)[target], and the probabilities (N, V)."""
    top = logits.max(axis=-1, keepdims=True)
    e = np.exp(logits - top)
    total = e.sum(axis=-1, keepdims=True)
    at = np.arange(len(targets))
    losses = np.log(total[:, 0]) - (logits[at, targets] - top[:, 0])
    return float((losses * weights).sum(dtype=np.float64)), e / total


def cross_entropy_back(probs: Array, targets: Array, weights: Array) -> Array:
    """dlogits = weight (softmax(logits) - onehot(target)), in place of probs."""
    probs[np.arange(len(targets)), targets] -= 1
    probs *= weights.astype(probs.dtype)[:, None]
    return probs


def backward(
    model: Model, w: Weights, tokens: Array, trace: Trace, dlogits: Array, dw: Weights, drops: Sequence[Array]
) -> None:
    """Add the gradients of all weights to dw, given those of the logits (N, V)."""
    B, T = tokens.shape
    rope = tables(model, 0, T, str(w["wte"].dtype))
    if model.softcap:
        dlogits = dlogits * (1 - (trace.logits / model.softcap) ** 2)
    head = "wte" if model.tie_embeddings else "lm_head"
    dx = linear_back(dlogits, trace.x, w[head], dw[head])
    if trace.r is not None:
        dx = rmsnorm_back(dx, trace.x, trace.r)
    for i in reversed(range(model.n_layer)):
        s = trace.layers[i]
        do = dx * drops[2 * i + 2] if drops else dx
        da = linear_back(do, s.a, w[f"layer{i}.mlp_fc2"], dw[f"layer{i}.mlp_fc2"])
        dh = activate_back(da, s.h, model.activation)
        dn = linear_back(dh, s.n2, w[f"layer{i}.mlp_fc1"], dw[f"layer{i}.mlp_fc1"])
        dx = dx + rmsnorm_back(dn, s.n2, s.r2)
        do = dx * drops[2 * i + 1] if drops else dx
        dmix = linear_back(do, s.mix, w[f"layer{i}.attn_wo"], dw[f"layer{i}.attn_wo"])
        dq, dk, dv = attention_back(split(dmix, B, model.n_head), s.p, s.q.y, s.k.y, s.v)
        dn = linear_back(join(head_back(dq, s.q, rope)), s.n1, w[f"layer{i}.attn_wq"], dw[f"layer{i}.attn_wq"])
        dn += linear_back(join(head_back(dk, s.k, rope)), s.n1, w[f"layer{i}.attn_wk"], dw[f"layer{i}.attn_wk"])
        dn += linear_back(join(dv), s.n1, w[f"layer{i}.attn_wv"], dw[f"layer{i}.attn_wv"])
        dx = dx + rmsnorm_back(dn, s.n1, s.r1)
    if drops:
        dx = dx * drops[0]
    if trace.r0 is not None:
        dx = rmsnorm_back(dx, trace.x0, trace.r0)
    np.add.at(dw["wte"], tokens.ravel(), dx)
    if model.position == "learned":
        dw["wpe"][:T] += dx.reshape(B, T, -1).sum(axis=0)


class State:
    """Weights, gradients and moments, each one flat vector with a view for every matrix."""

    def __init__(self, model: Model, dtype: str) -> None:
        self.shapes = [(w.name, w.shape) for w in table(model)]
        n = sum(rows * columns for _, (rows, columns) in self.shapes)
        self.flat = {part: np.zeros(n, dtype) for part in ("w", "dw", "m", "v")}
        self.w, self.dw = self.views("w"), self.views("dw")

    def views(self, part: str) -> Weights:
        """The flat vector's matrices by name."""
        views, at = {}, 0
        for name, (rows, columns) in self.shapes:
            views[name] = self.flat[part][at : at + rows * columns].reshape(rows, columns)
            at += rows * columns
        return views


class Engine(engines.Engine):
    """The manual rung: see microgpt.engines.Engine."""

    def __init__(
        self, model: Model, optim: Optim, *, dtype: str = "float32", device: str = "cpu", threads: int = 0
    ) -> None:
        self.model, self.optim, self.dtype, self.threads = model, optim, dtype, threads

    def load(self, tensors: Tensors) -> State:
        state = State(self.model, self.dtype)
        for part, prefix in (("w", ""), ("m", "m."), ("v", "v.")):
            for name, view in state.views(part).items():
                if prefix + name in tensors:
                    view[:] = tensors[prefix + name]
        return state

    def dump(self, state: State) -> Tensors:
        parts = (("w", ""), ("m", "m."), ("v", "v."))
        return {prefix + name: a.copy() for part, prefix in parts for name, a in state.views(part).items()}

    def train(self, state: State, feed: Feed, lrs: Array, norms: Array | None = None) -> tuple[State, Array]:
        losses: list[float] = []
        flat = state.flat
        with threadpool_limits(self.threads or None), np.errstate(all="ignore"):
            for i, lr in enumerate(lrs.tolist()):
                step = feed.first_step + i
                flat["dw"][:] = 0
                loss = sum(self._gradients(state, rows, feed, step) for rows in feed.micro_batches(i))
                norm = math.sqrt(np.dot(flat["dw"], flat["dw"]))
                if norms is not None:
                    norms[i] = norm
                losses.append(rules.checked_loss(loss, norm))
                if not math.isfinite(losses[-1]):
                    break
                scale = rules.clip_scale(norm, self.optim.clip_norm)
                g = flat["dw"] * scale if scale != 1 else flat["dw"]
                w, m, v = rules.adam(flat["w"], g, flat["m"], flat["v"], self.optim, step, lr)
                flat["w"][:], flat["m"], flat["v"] = w, m, v
        return state, np.array(losses)

    def _gradients(self, state: State, rows: MicroBatch, feed: Feed, step: int) -> float:
        """Forward and backward of some rows of a step: adds to the gradients, returns its part of the loss."""
        targets, weights = rows.targets.ravel(), rows.weights.ravel()
        drops = dropout_masks(self.model, feed, rows, step, self.dtype)
        trace = forward(self.model, state.w, rows.inputs, drops=drops)
        loss, probs = cross_entropy(trace.logits, targets, weights)
        dlogits = cross_entropy_back(probs, targets, weights)
        backward(self.model, state.w, rows.inputs, trace, dlogits, state.dw, drops)
        return loss

    def loss(self, state: State, feed: Feed) -> Array:
        def one(rows: MicroBatch) -> float:
            logits = forward(self.model, state.w, rows.inputs).logits
            return cross_entropy(logits, rows.targets.ravel(), rows.weights.ravel())[0]

        with threadpool_limits(self.threads or None), np.errstate(all="ignore"):
            return np.array([sum(one(rows) for rows in feed.micro_batches(i)) for i in range(feed.n_steps)])

    def logits(self, state: State, tokens: Array, cache: Cache | None = None) -> tuple[Array, Cache]:
        cache = cache or Cache(self.model, self.dtype)
        with threadpool_limits(self.threads or None), np.errstate(all="ignore"):
            return forward(self.model, state.w, np.asarray(tokens)[None], cache).logits, cache

    @property
    def inspect(self) -> engines.Inspect:
        def found(state: State, tokens: Array) -> engines.Activations:
            with threadpool_limits(self.threads or None), np.errstate(all="ignore"):
                cache = Cache(self.model, self.dtype)
                return activations(state.w, forward(self.model, state.w, np.asarray(tokens)[None], cache))

        return found
