"""Autograd on single numbers: every number remembers where it came from.

The definition that all faster rungs are tested against: gpt.py with the interface of an engine and every option.
One node per number, one function per formula; standard library alone, float64 alone.

Legend: T positions, D n_embd, H heads, V vocabulary; vectors are lists of D numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from microgpt import engines
from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.common.dropout import scales
from microgpt.engines.common.lists import Lists, from_lists, no_collector, to_array, to_lists

if TYPE_CHECKING:
    import numpy as np

    from microgpt.feed import Feed
    from microgpt.model import Tensors


class Value:
    """A number, the numbers it was computed from, and the derivative with respect to each of them."""

    __slots__ = ("children", "data", "grad", "local_grads")

    def __init__(self, data: float, children: tuple[Value, ...] = (), local_grads: tuple[float, ...] = ()) -> None:
        self.data = data
        self.grad = 0.0
        self.children = children
        self.local_grads = local_grads

    def __add__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data + other.data, (self, other), (1.0, 1.0))
        return Value(self.data + other, (self,), (1.0,))

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other), (other.data, self.data))
        return Value(self.data * other, (self,), (other,))

    def __pow__(self, power: float) -> Value:
        return Value(self.data**power, (self,), (power * self.data ** (power - 1),))

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Value | float) -> Value:
        return self + -other

    def __truediv__(self, other: Value | float) -> Value:
        return self * other**-1

    __radd__ = __add__
    __rmul__ = __mul__

    def exp(self) -> Value:
        e = math.exp(self.data)
        return Value(e, (self,), (e,))

    def log(self) -> Value:
        if self.data == 0:  # a probability too small for a float: the loss is infinite, and says so
            return Value(-math.inf, (self,), (math.inf,))
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def tanh(self) -> Value:
        t = math.tanh(self.data)
        return Value(t, (self,), (1 - t * t,))

    def relu(self) -> Value:
        return Value(max(self.data, 0.0), (self,), (float(self.data > 0),))

    def backward(self) -> None:
        """Add the derivative of this number to `grad` of every number it was computed from (the chain rule)."""
        order: list[Value] = []
        seen: set[Value] = set()
        stack: list[tuple[Value, int]] = [(self, 0)]
        seen.add(self)
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
        self.grad = 1.0
        for node in reversed(order):
            for child, local in zip(node.children, node.local_grads, strict=True):
                child.grad += local * node.grad


Vector = list[Value]
Matrix = list[Vector]
Weights = dict[str, Matrix]


def linear(x: Vector, w: Matrix) -> Vector:
    """W x."""
    return [sum((wi * xi for wi, xi in zip(row, x, strict=True)), start=Value(0.0)) for row in w]


def rmsnorm(x: Vector) -> Vector:
    """x / sqrt(mean(x^2) + 1e-5), without gain (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    mean_square = sum((xi * xi for xi in x), start=Value(0.0)) / len(x)
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def rotate(x: Vector, position: int, model: Model) -> Vector:
    """RoPE on one head's channels (Su et al. 2021, arXiv:2104.09864)."""
    half, out = len(x) // 2, list(x)
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if model.rope_pairs == "interleaved" else (i, i + half)
        angle = position * model.rope_base ** (-2 * i / len(x))
        cos, sin = math.cos(angle), math.sin(angle)
        out[a], out[b] = x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos
    return out


def softmax(x: Vector) -> Vector:
    """exp(x) / sum(exp(x)), shifted by the maximum so that nothing overflows."""
    top = max(xi.data for xi in x)
    exps = [(xi - top).exp() for xi in x]
    total = sum(exps, start=Value(0.0))
    return [e / total for e in exps]


def activate(x: Vector, activation: str) -> Vector:
    """ReLU, its square (So et al. 2021, arXiv:2109.08668) or GELU in its tanh form (arXiv:1606.08415)."""
    if activation == "relu":
        return [xi.relu() for xi in x]
    if activation == "relu2":
        return [xi.relu() ** 2 for xi in x]
    return [xi * 0.5 * ((xi + xi * xi * xi * 0.044715) * math.sqrt(2 / math.pi)).tanh() + xi * 0.5 for xi in x]


def attention(q: Vector, keys: list[Vector], values: list[Vector], model: Model) -> Vector:
    """Each head's mix of the values, weighted by how well its query fits the keys (arXiv:1706.03762, eq. 1)."""
    size, out = model.head_dim, []
    for at in range(0, model.n_embd, size):
        head = slice(at, at + size)
        scores = [
            sum((a * b for a, b in zip(q[head], k[head], strict=True)), start=Value(0.0)) / size**0.5 for k in keys
        ]
        weights = softmax(scores)
        columns = zip(*(v[head] for v in values), strict=True)
        out += [sum((w * v for w, v in zip(weights, column, strict=True)), start=Value(0.0)) for column in columns]
    return out


class Cache:
    """The keys and values (layer, position, D) of the positions so far."""

    def __init__(self, model: Model) -> None:
        self.keys: list[list[Vector]] = [[] for _ in range(model.n_layer)]
        self.values: list[list[Vector]] = [[] for _ in range(model.n_layer)]


Drop = Callable[[Vector, int, int], Vector]


def forward(model: Model, w: Weights, token: int, cache: Cache, drop: Drop | None = None) -> Vector:
    """The logits (V,) after one more token. `drop(x, place, position)` is dropout, if any."""
    position = len(cache.keys[0])
    x = list(w["wte"][token])
    if model.position == "learned":
        x = [a + b for a, b in zip(x, w["wpe"][position], strict=True)]
    if model.norm_embedding:
        x = rmsnorm(x)
    if drop:
        x = drop(x, 0, position)
    for i in range(model.n_layer):
        residual, x = x, rmsnorm(x)
        q, k, v = (linear(x, w[f"layer{i}.attn_w{name}"]) for name in "qkv")
        q, k = (by_head(y, position, model) for y in (q, k))
        cache.keys[i].append(k)
        cache.values[i].append(v)
        x = linear(attention(q, cache.keys[i], cache.values[i], model), w[f"layer{i}.attn_wo"])
        if drop:
            x = drop(x, 2 * i + 1, position)
        x = [a + b for a, b in zip(x, residual, strict=True)]
        residual, x = x, rmsnorm(x)
        x = activate(linear(x, w[f"layer{i}.mlp_fc1"]), model.activation)
        x = linear(x, w[f"layer{i}.mlp_fc2"])
        if drop:
            x = drop(x, 2 * i + 2, position)
        x = [a + b for a, b in zip(x, residual, strict=True)]
    if model.final_norm:
        x = rmsnorm(x)
    logits = linear(x, w["wte" if model.tie_embeddings else "lm_head"])
    if model.softcap:
        logits = [(z / model.softcap).tanh() * model.softcap for z in logits]
    return logits


def by_head(x: Vector, position: int, model: Model) -> Vector:
    """Rotation and norm of queries or keys, head by head, where the model has them."""
    out: Vector = []
    for at in range(0, model.n_embd, model.head_dim):
        head = x[at : at + model.head_dim]
        if model.position == "rope":
            head = rotate(head, position, model)
        if model.qk_norm:
            head = rmsnorm(head)
        out += head
    return out


def row_losses(model: Model, w: Weights, row: list[int], scored: list[bool], drop: Drop | None = None) -> Vector:
    """Minus the log probability of every scored target of a row."""
    cache, losses = Cache(model), []
    for token, target, counts in zip(row, row[1:], scored[1:], strict=False):
        logits = forward(model, w, token, cache, drop)
        if counts:
            losses.append(-softmax(logits)[target].log())
    return losses


def step_loss(model: Model, w: Weights, feed: Feed, i: int, dropping: bool) -> Value:
    """The mean loss of the scored targets of step i of the feed."""
    losses: Vector = []
    for row, (tokens, scored) in enumerate(feed.rows(i)):
        drop = dropper(model, feed.seed, feed.first_step + i, row, len(tokens) - 1) if dropping else None
        try:
            losses += row_losses(model, w, tokens, scored, drop)
        except OverflowError:  # Python's powers raise where arrays become infinite
            return Value(math.inf)
    return sum(losses, start=Value(0.0)) * (1 / max(1, len(losses)))


def dropper(model: Model, seed: int, step: int, row: int, T: int) -> Drop:
    """Dropout for one row (Srivastava et al. 2014), keyed so that every engine drops the same numbers."""
    masks = [
        scales(model.dropout, seed, step, row, place, T, model.n_embd).tolist()
        for place in range(2 * model.n_layer + 1)
    ]

    def drop(x: Vector, place: int, position: int) -> Vector:
        return [xi * scale for xi, scale in zip(x, masks[place][position], strict=True)]

    return drop


class State:
    """Weights as nodes, moments as numbers."""

    def __init__(self, w: Weights, m: Lists, v: Lists) -> None:
        self.w, self.m, self.v = w, m, v


class Engine(engines.Engine):
    """The scalar rung: see microgpt.engines.Engine."""

    def __init__(
        self, model: Model, optim: Optim, *, dtype: str = "float64", device: str = "cpu", threads: int = 0
    ) -> None:
        self.model, self.optim = model, optim

    def load(self, tensors: Tensors) -> State:
        w, m, v = to_lists(self.model, tensors)
        return State({name: [[Value(x) for x in row] for row in rows] for name, rows in w.items()}, m, v)

    def dump(self, state: State) -> Tensors:
        w = {name: [[x.data for x in row] for row in rows] for name, rows in state.w.items()}
        return from_lists(w, state.m, state.v)

    def train(
        self, state: State, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None
    ) -> tuple[State, np.ndarray]:
        losses: list[float] = []
        with no_collector():
            for i, lr in enumerate(lrs.tolist()):
                loss, norm = self._gradients(state.w, feed, i)
                if norms is not None:
                    norms[i] = norm
                losses.append(rules.checked_loss(loss, norm * norm))
                if not math.isfinite(losses[-1]):
                    self._forget(state.w)
                    break
                self._update(state, feed.first_step + i, lr, rules.clip_scale(norm, self.optim.clip_norm))
        return state, to_array(losses)

    def _gradients(self, w: Weights, feed: Feed, i: int) -> tuple[float, float]:
        """The loss of step i and the norm of its gradient, which is left in the nodes."""
        loss = step_loss(self.model, w, feed, i, self.model.dropout > 0)
        loss.backward()
        return loss.data, math.hypot(*(x.grad for rows in w.values() for row in rows for x in row))

    def _forget(self, w: Weights) -> None:
        for rows in w.values():
            for row in rows:
                for x in row:
                    x.grad = 0.0

    def _update(self, state: State, step: int, lr: float, scale: float) -> None:
        for name, rows in state.w.items():
            for row, m, v in zip(rows, state.m[name], state.v[name], strict=True):
                for i, x in enumerate(row):
                    x.data, m[i], v[i] = rules.adam(x.data, x.grad * scale, m[i], v[i], self.optim, step, lr)
                    x.grad = 0.0

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        return to_array([step_loss(self.model, state.w, feed, i, False).data for i in range(feed.n_steps)])

    def logits(self, state: State, tokens: np.ndarray, cache: Cache | None = None) -> tuple[np.ndarray, Cache]:
        cache = cache or Cache(self.model)
        rows = [[z.data for z in forward(self.model, state.w, token, cache)] for token in tokens.tolist()]
        return to_array(rows), cache
