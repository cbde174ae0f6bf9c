"""One graph node per matrix.

The graph of scalar.py again, but a node holds a whole array: every position of every row in one operation, matrix
products through BLAS. Only the few operations of `Tensor` know their derivatives; each formula below is written
in them and needs no gradient of its own. Rows are padded to rectangles; padding has weight 0 in the loss and lies after
every real position, so it changes no gradient.

Legend: B rows, T positions, N = B T, D n_embd, H heads, S positions of the keys, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from microgpt import engines
from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.common.arrays import causal_mask, dropout_masks, rope_tables
from microgpt.feed import Feed, MicroBatch
from microgpt.model import Tensors, table

Array = np.ndarray
Back = Callable[[Array], tuple[Array, ...]]


class Tensor:
    """An array, the tensors it was computed from, and the function from its gradient to theirs.

    That function refers to arrays and never to its own tensor: a graph without cycles is freed by reference counts.
    """

    __slots__ = ("back", "children", "data", "grad")

    def __init__(self, data: Array, children: tuple[Tensor, ...] = (), back: Back | None = None) -> None:
        self.data = data
        self.grad: Any = 0.0  # an array like data after `backward`
        self.children = children
        self.back = back

    def __add__(self, other: Tensor | Array | float) -> Tensor:
        if isinstance(other, Tensor):
            return Tensor(self.data + other.data, (self, other), lambda dy: (dy, dy))
        return Tensor(self.data + other, (self,), lambda dy: (dy,))

    def __mul__(self, other: Tensor | Array | float) -> Tensor:
        if isinstance(other, Tensor):
            a, b = self.data, other.data
            return Tensor(a * b, (self, other), lambda dy: (fit(dy * b, a), fit(dy * a, b)))
        return Tensor(self.data * other, (self,), lambda dy: (dy * other,))

    def __matmul__(self, other: Tensor) -> Tensor:
        a, b = self.data, other.data
        return Tensor(a @ b, (self, other), lambda dy: (dy @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ dy))

    def __pow__(self, power: float) -> Tensor:
        a = self.data
        return Tensor(a**power, (self,), lambda dy: (dy * (power * a ** (power - 1)),))

    def __neg__(self) -> Tensor:
        return self * -1.0

    def __sub__(self, other: Tensor) -> Tensor:
        return self + -other

    def __truediv__(self, other: Tensor) -> Tensor:
        return self * other**-1

    __radd__ = __add__
    __rmul__ = __mul__

    def exp(self) -> Tensor:
        e = np.exp(self.data)
        return Tensor(e, (self,), lambda dy: (dy * e,))

    def log(self) -> Tensor:
        a = self.data
        return Tensor(np.log(a), (self,), lambda dy: (dy / a,))

    def tanh(self) -> Tensor:
        t = np.tanh(self.data)
        return Tensor(t, (self,), lambda dy: (dy * (1 - t * t),))

    def relu(self) -> Tensor:
        a = self.data
        return Tensor(np.maximum(a, 0), (self,), lambda dy: (dy * (a > 0),))

    def sum(self) -> Tensor:
        """Over the last axis, which stays with length 1."""
        shape = self.data.shape
        return Tensor(self.data.sum(axis=-1, keepdims=True), (self,), lambda dy: (np.broadcast_to(dy, shape),))

    def reshape(self, *shape: int) -> Tensor:
        before = self.data.shape
        return Tensor(self.data.reshape(shape), (self,), lambda dy: (dy.reshape(before),))

    def swap(self, i: int, j: int) -> Tensor:
        """Two axes exchanged."""
        return Tensor(self.data.swapaxes(i, j), (self,), lambda dy: (dy.swapaxes(i, j),))

    def take(self, *index: Array) -> Tensor:
        """The elements at an index, which may name some of them more than once."""
        a = self.data

        def back(dy: Array) -> tuple[Array]:
            da = np.zeros_like(a)
            np.add.at(da, index, dy)  # type: ignore[arg-type]
            return (da,)

        return Tensor(a[index], (self,), back)

    def exchange(self, partner: Array) -> Tensor:
        """Every element of the last axis replaced by its partner's."""
        return Tensor(self.data[..., partner], (self,), lambda dy: (dy[..., partner],))

    def backward(self) -> None:
        """Add the derivative of this number to `grad` of every tensor it was computed from (the chain rule)."""
        order: list[Tensor] = []
        seen: set[Tensor] = {self}
        stack: list[tuple[Tensor, int]] = [(self, 0)]
        while stack:  # depth first, children before parents; a stack of our own, so that depth has no limit
            node, i = stack.pop()
            while i < len(node.children) and node.children[i] in seen:
                i += 1
            if i < len(node.children):
                child = node.children[i]
                seen.add(child)
                stack.append((node, i + 1))
                stack.append((child, 0))
            else:
                order.append(node)
        self.grad = np.ones_like(self.data)
        for node in reversed(order):
            if node.back:
                for child, grad in zip(node.children, node.back(node.grad), strict=True):
                    child.grad = child.grad + grad


def fit(grad: Array, like: Array) -> Array:
    """The gradient of an array that was repeated along its last axis to meet another."""
    return grad if grad.shape == like.shape else grad.sum(axis=-1, keepdims=True)


Weights = dict[str, Tensor]


def linear(x: Tensor, w: Tensor) -> Tensor:
    """x W^T: (N, in), (out, in) -> (N, out)."""
    return x @ w.swap(0, 1)


def rmsnorm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-5) over the last axis, without gain (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    mean_square = (x * x).sum() * (1 / x.data.shape[-1])
    return x * (mean_square + 1e-5) ** -0.5


def rotate(x: Tensor, first: int, model: Model) -> Tensor:
    """RoPE on channels (..., T, size) of positions from `first` on (Su et al. 2021, arXiv:2104.09864)."""
    T, size = x.data.shape[-2:]
    cos, sin, partner = rope_tables(first, T, size, model.rope_base, model.rope_pairs, str(x.data.dtype))
    return x * cos + x.exchange(partner) * sin


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over the last axis, shifted by the maximum so that nothing overflows."""
    e = (x + -x.data.max(axis=-1, keepdims=True)).exp()
    return e / e.sum()


def activate(x: Tensor, activation: str) -> Tensor:
    """ReLU, its square (So et al. 2021, arXiv:2109.08668) or GELU in its tanh form (arXiv:1606.08415)."""
    if activation == "relu":
        return x.relu()
    if activation == "relu2":
        return x.relu() ** 2
    return x * 0.5 * ((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)).tanh() + x * 0.5


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(size)) v, causal: (B, H, T, size), (B, H, S, size) -> (B, H, T, size)
    (arXiv:1706.03762, eq. 1)."""
    T, size = q.data.shape[-2:]
    scores = q @ k.swap(-1, -2) * size**-0.5
    return softmax(scores + causal_mask(T, k.data.shape[-2], str(q.data.dtype))) @ v


def split(x: Tensor, B: int, H: int) -> Tensor:
    """(N, D) -> (B, H, T, D / H)."""
    N, D = x.data.shape
    return x.reshape(B, N // B, H, D // H).swap(1, 2)


def join(x: Tensor) -> Tensor:
    """(B, H, T, size) -> (N, D)."""
    B, H, T, size = x.data.shape
    return x.swap(1, 2).reshape(B * T, H * size)


class Cache:
    """Keys and values (1, H, S, size) of each layer, S the positions so far."""

    def __init__(self, model: Model, dtype: str) -> None:
        empty = np.empty((1, model.n_head, 0, model.head_dim), dtype)
        self.keys, self.values = [empty] * model.n_layer, [empty] * model.n_layer

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's new keys and values; returns all of them, as tensors without children."""
        self.keys[layer] = np.concatenate([self.keys[layer], k.data], axis=2)
        self.values[layer] = np.concatenate([self.values[layer], v.data], axis=2)
        return Tensor(self.keys[layer]), Tensor(self.values[layer])


def forward(model: Model, w: Weights, tokens: Array, cache: Cache | None = None, drops: Sequence[Array] = ()) -> Tensor:
    """The logits (N, V) of tokens (B, T). A cache continues one row; `drops` is dropout, if any."""
    B, T = tokens.shape
    first = cache.keys[0].shape[2] if cache else 0
    x = w["wte"].take(tokens.ravel())
    if model.position == "learned":
        x = x + w["wpe"].take(np.tile(np.arange(first, first + T), B))
    if model.norm_embedding:
        x = rmsnorm(x)
    if drops:
        x = x * drops[0]
    for i in range(model.n_layer):
        residual, x = x, rmsnorm(x)
        q, k, v = (split(linear(x, w[f"layer{i}.attn_w{name}"]), B, model.n_head) for name in "qkv")
        q, k = (by_head(y, first, model) for y in (q, k))
        if cache:
            k, v = cache.extend(i, k, v)
        x = linear(join(attention(q, k, v)), w[f"layer{i}.attn_wo"])
        if drops:
            x = x * drops[2 * i + 1]
        x = x + residual
        residual, x = x, rmsnorm(x)
        x = activate(linear(x, w[f"layer{i}.mlp_fc1"]), model.activation)
        x = linear(x, w[f"layer{i}.mlp_fc2"])
        if drops:
            x = x * drops[2 * i + 2]
        x = x + residual
    if model.final_norm:
        x = rmsnorm(x)
    logits = linear(x, w["wte" if model.tie_embeddings else "lm_head"])
    if model.softcap:
        logits = (logits * (1 / model.softcap)).tanh() * model.softcap
    return logits


def by_head(x: Tensor, first: int, model: Model) -> Tensor:
    """Rotation and norm of queries or keys (B, H, T, size), where the model has them."""
    if model.position == "rope":
        x = rotate(x, first, model)
    return rmsnorm(x) if model.qk_norm else x


def cross_entropy(logits: Tensor, targets: Array, weights: Array) -> Tensor:
    """The weighted sum of -log softmax(logits)[target], as log(sum(exp(x))) - x[target]."""
    x = logits + -logits.data.max(axis=-1, keepdims=True)
    losses = x.exp().sum().log().reshape(-1) - x.take(np.arange(len(targets)), targets)
    return (losses * weights.astype(x.data.dtype)).sum()


def loss_of(model: Model, w: Weights, rows: MicroBatch, drops: Sequence[Array] = ()) -> Tensor:
    """Some rows' part of the loss of their step."""
    logits = forward(model, w, rows.inputs, drops=drops)
    return cross_entropy(logits, rows.targets.ravel(), rows.weights.ravel())


class State:
    """Weights as nodes, moments as arrays."""

    def __init__(self, w: Weights, m: Tensors, v: Tensors) -> None:
        self.w, self.m, self.v = w, m, v


class Engine(engines.Engine):
    """The tensor rung: see microgpt.engines.Engine."""

    def __init__(
        self, model: Model, optim: Optim, *, dtype: str = "float32", device: str = "cpu", threads: int = 0
    ) -> None:
        self.model, self.optim, self.dtype, self.threads = model, optim, dtype, threads

    def load(self, tensors: Tensors) -> State:
        def part(prefix: str) -> Tensors:
            given = {w.name: tensors.get(prefix + w.name, np.zeros(w.shape)) for w in table(self.model)}
            return {name: np.array(a, self.dtype) for name, a in given.items()}

        return State({name: Tensor(a) for name, a in part("").items()}, part("m."), part("v."))

    def dump(self, state: State) -> Tensors:
        parts = {"": {name: p.data for name, p in state.w.items()}, "m.": state.m, "v.": state.v}
        return {prefix + name: a.copy() for prefix, part in parts.items() for name, a in part.items()}

    def train(self, state: State, feed: Feed, lrs: Array, norms: Array | None = None) -> tuple[State, Array]:
        losses: list[float] = []
        with threadpool_limits(self.threads or None), np.errstate(all="ignore"):
            for i, lr in enumerate(lrs.tolist()):
                step = feed.first_step + i
                loss = sum(self._gradients(state, rows, feed, step) for rows in feed.micro_batches(i))
                grads = {name: p.grad for name, p in state.w.items()}
                norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
                if norms is not None:
                    norms[i] = norm
                for p in state.w.values():
                    p.grad = 0.0
                losses.append(rules.checked_loss(loss, norm))
                if not math.isfinite(losses[-1]):
                    break
                self._update(state, grads, step, lr, rules.clip_scale(norm, self.optim.clip_norm))
        return state, np.array(losses)

    def _gradients(self, state: State, rows: MicroBatch, feed: Feed, step: int) -> float:
        """Forward and backward of some rows of a step: adds to the gradients, returns its part of the loss."""
        drops = dropout_masks(self.model, feed, rows, step, self.dtype)
        loss = loss_of(self.model, state.w, rows, drops)
        loss.backward()
        return loss.data.item()

    def _update(self, state: State, grads: Tensors, step: int, lr: float, scale: float) -> None:
        for name, p in state.w.items():
            g, m, v = grads[name] * scale, state.m[name], state.v[name]
            p.data, state.m[name], state.v[name] = rules.adam(p.data, g, m, v, self.optim, step, lr)

    def loss(self, state: State, feed: Feed) -> Array:
        def one(rows: MicroBatch) -> float:
            return loss_of(self.model, state.w, rows).data.item()

        with threadpool_limits(self.threads or None), np.errstate(all="ignore"):
            return np.array([sum(one(rows) for rows in feed.micro_batches(i)) for i in range(feed.n_steps)])

    def logits(self, state: State, tokens: Array, cache: Cache | None = None) -> tuple[Array, Cache]:
        cache = cache or Cache(self.model, self.dtype)
        with threadpool_limits(self.threads or None), np.errstate(all="ignore"):
            return forward(self.model, state.w, np.asarray(tokens)[None], cache).data, cache
