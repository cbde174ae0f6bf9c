"""Each function returns its value and its backward; nothing is mutated.

Every operation takes a matrix and returns a `Value`: a new matrix, and its backward function, from the gradient of
the result to that of the operand. Two operations in a row are one operation, so the whole model is one value with one
backward function, and no graph has to be kept or traversed. Nothing that exists is ever assigned to: no name is bound
twice, no object changes, gradients and updated weights are new values. Standard library alone, float64 alone.

Longer than 350 lines, because a rung is read from top to bottom in one file.

Legend: T positions, D n_embd, V vocabulary; a Matrix is a tuple of rows, most often one for every position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from itertools import accumulate, chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec

from microgpt import engines
from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.common.dropout import scales
from microgpt.engines.common.lists import copy_to, from_lists, to_array, to_lists
from microgpt.engines.common.tuples import Matrix, Vector, dot, join, matrix, plus, product, split, times, transpose

if TYPE_CHECKING:
    import numpy as np

    from microgpt.feed import Feed
    from microgpt.model import Tensors

P = ParamSpec("P")
Weights = Mapping[str, Matrix]  # and gradients, by the names of their weights
Back = Callable[[Matrix], tuple[Matrix, Weights]]


class Value(NamedTuple):
    """A matrix, and its backward function: from its gradient to that of the matrix it was computed from and to those
    of the weights in between."""

    data: Matrix
    back: Back

    def then(self, step: Callable[Concatenate[Matrix, P], Value], *args: P.args, **kwargs: P.kwargs) -> Value:
        """One more operation; the backward functions compose in reverse order (the chain rule)."""
        after = step(self.data, *args, **kwargs)

        def back(dy: Matrix) -> tuple[Matrix, Weights]:
            between, late = after.back(dy)
            dx, early = self.back(between)
            return dx, merge(early, late)

        return Value(after.data, back)

    def when(
        self, wanted: object, step: Callable[Concatenate[Matrix, P], Value], *args: P.args, **kwargs: P.kwargs
    ) -> Value:
        """One more operation, where the model has it."""
        return self.then(step, *args, **kwargs) if wanted else self


def start(x: Matrix) -> Value:
    """A matrix before any operation; its backward function is the identity."""
    return Value(x, lambda dy: (dy, {}))


def merge(a: Weights, b: Weights) -> Weights:
    """Gradients of both, added where both have the same weights."""
    return {**a, **b, **{name: plus(a[name], b[name]) for name in a.keys() & b.keys()}}


def linear(x: Matrix, w: Weights, name: str) -> Value:
    """X W^T; back dX = dY W and dW = dY^T X."""

    def back(dy: Matrix) -> tuple[Matrix, Weights]:
        return product(dy, transpose(w[name])), {name: product(transpose(dy), transpose(x))}

    return Value(product(x, w[name]), back)


def rmsnorm(x: Matrix) -> Value:
    """x / sqrt(mean(x^2) + 1e-5), without gain (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    scale = tuple((dot(row, row) / len(row) + 1e-5) ** -0.5 for row in x)
    y = tuple(tuple(xi * r for xi in row) for row, r in zip(x, scale, strict=True))

    def one(dy: Vector, y: Vector, r: float) -> Vector:
        along = dot(dy, y) / len(y)
        return tuple((dyi - yi * along) * r for dyi, yi in zip(dy, y, strict=True))

    return Value(y, lambda dy: (tuple(map(one, dy, y, scale)), {}))


def rotate(x: Matrix, first: int, model: Model) -> Value:
    """RoPE on one head's channels (Su et al. 2021, arXiv:2104.09864). The derivative rotates by the opposite angle."""

    def turn(row: Vector, position: int) -> Vector:
        size, half = len(row), len(row) // 2
        angles = tuple(position * model.rope_base ** (-2 * i / size) for i in range(half))
        a, b = (row[0::2], row[1::2]) if model.rope_pairs == "interleaved" else (row[:half], row[half:])
        left = tuple(x * math.cos(t) - y * math.sin(t) for x, y, t in zip(a, b, angles, strict=True))
        right = tuple(x * math.sin(t) + y * math.cos(t) for x, y, t in zip(a, b, angles, strict=True))
        return tuple(chain(*zip(left, right, strict=True))) if model.rope_pairs == "interleaved" else left + right

    def back(dy: Matrix) -> tuple[Matrix, Weights]:
        return tuple(turn(row, -first - t) for t, row in enumerate(dy)), {}

    return Value(tuple(turn(row, first + t) for t, row in enumerate(x)), back)


def softmax(x: Vector) -> Vector:
    """exp(x) / sum(exp(x)), shifted by the maximum so that nothing overflows."""
    top = max(x)
    exps = tuple(math.exp(xi - top) for xi in x)
    total = sum(exps)
    return tuple(e / total for e in exps)


def softmax_back(dp: Vector, p: Vector) -> Vector:
    """dx = p (dp - sum(dp p))."""
    along = dot(dp, p)
    return tuple(pi * (dpi - along) for dpi, pi in zip(dp, p, strict=True))


def activate(x: Matrix, activation: str) -> Value:
    """ReLU, its square (So et al. 2021, arXiv:2109.08668) or GELU in its tanh form (arXiv:1606.08415)."""
    return each(x, {"relu": relu, "relu2": relu2, "gelu": gelu}[activation])


def softcap(x: Matrix, cap: float) -> Value:
    """cap tanh(x / cap)."""

    def squash(x: float) -> tuple[float, float]:
        t = math.tanh(x / cap)
        return cap * t, 1 - t * t

    return each(x, squash)


def each(x: Matrix, function: Callable[[float], tuple[float, float]]) -> Value:
    """A function of every number, which returns its value and its derivative."""
    pairs = tuple(tuple(map(function, row)) for row in x)
    slopes = tuple(tuple(slope for _, slope in row) for row in pairs)
    return Value(tuple(tuple(y for y, _ in row) for row in pairs), lambda dy: (times(dy, slopes), {}))


def relu(x: float) -> tuple[float, float]:
    """max(0, x)."""
    return (0.0, 0.0) if x <= 0 else (x, 1.0)


def relu2(x: float) -> tuple[float, float]:
    """max(0, x)^2."""
    return (0.0, 0.0) if x <= 0 else (x * x, 2 * x)


def gelu(x: float) -> tuple[float, float]:
    """x (1 + t) / 2 with t = tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    c = math.sqrt(2 / math.pi)
    t = math.tanh(c * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


def attention(q: Value, k: Value, v: Value, model: Model) -> Value:
    """Each head's mix of the values, weighted by how well its query fits the keys (arXiv:1706.03762, eq. 1).

    The queries are the last of the positions of the keys, and see those up to their own. All three were computed
    from one matrix, so its gradient is the sum of three.
    """
    parts = tuple(map(attend, *(split(of.data, model.head_dim) for of in (q, k, v))))

    def back(dy: Matrix) -> tuple[Matrix, Weights]:
        by_head = (way(d) for (_, way), d in zip(parts, split(dy, model.head_dim), strict=True))
        grads_of = tuple(of.back(join(dx)) for of, dx in zip((q, k, v), zip(*by_head, strict=True), strict=True))
        return reduce(plus, (dx for dx, _ in grads_of)), reduce(merge, (grads for _, grads in grads_of))

    return Value(join(tuple(y for y, _ in parts)), back)


def attend(q: Matrix, k: Matrix, v: Matrix) -> tuple[Matrix, Callable[[Matrix], tuple[Matrix, Matrix, Matrix]]]:
    """One head of attention, and its backward function: the gradients of its queries, keys and values."""
    earlier, scale = len(k) - len(q), len(q[0]) ** -0.5
    seen = tuple(softmax(tuple(dot(row, key) * scale for key in k[: earlier + t])) for t, row in enumerate(q, start=1))
    weights = tuple(p + (0.0,) * (len(k) - len(p)) for p in seen)

    def back(dy: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        fits = map(softmax_back, product(dy, v), weights)
        scores = tuple(tuple(fit * scale for fit in row) for row in fits)
        dk, dv = product(transpose(scores), transpose(q)), product(transpose(weights), transpose(dy))
        return product(scores, transpose(k)), dk, dv

    return product(weights, transpose(v)), back


class Cache(NamedTuple):
    """The keys and values (T, D) of the positions so far, for every layer."""

    keys: tuple[Matrix, ...]
    values: tuple[Matrix, ...]


class Block(NamedTuple):
    """The output of a transformer block, and its keys and values with those of the cache."""

    x: Value
    keys: Matrix
    values: Matrix


def forward(
    model: Model, w: Weights, tokens: Sequence[int], cache: Cache | None = None, drops: Sequence[Matrix] = ()
) -> tuple[Value, Cache]:
    """The logits (T, V) after each of T more tokens, and a cache with them in it. `drops` is dropout, if any."""
    past = cache or Cache(((),) * model.n_layer, ((),) * model.n_layer)
    first = len(past.keys[0])

    def block(before: Block, i: int) -> Block:
        n = rmsnorm(before.x.data)
        q = n.then(linear, w, f"layer{i}.attn_wq").then(by_head, first, model)
        k = n.then(linear, w, f"layer{i}.attn_wk").then(by_head, first, model).then(append, past.keys[i])
        v = n.then(linear, w, f"layer{i}.attn_wv").then(append, past.values[i])
        mix = attention(q, k, v, model).then(linear, w, f"layer{i}.attn_wo").when(drops, dropout, drops, 2 * i + 1)
        x = before.x.then(residual, mix)
        h = rmsnorm(x.data).then(linear, w, f"layer{i}.mlp_fc1").then(activate, model.activation)
        out = h.then(linear, w, f"layer{i}.mlp_fc2").when(drops, dropout, drops, 2 * i + 2)
        return Block(x.then(residual, out), k.data, v.data)

    x = embed(tokens, w).when(model.position == "learned", place, w, first)
    x0 = x.when(model.norm_embedding, rmsnorm).when(drops, dropout, drops, 0)
    blocks = tuple(accumulate(range(model.n_layer), block, initial=Block(x0, (), ())))[1:]
    normed = blocks[-1].x.when(model.final_norm, rmsnorm)
    logits = normed.then(linear, w, "wte" if model.tie_embeddings else "lm_head")
    now = Cache(tuple(b.keys for b in blocks), tuple(b.values for b in blocks))
    return logits.when(model.softcap, softcap, model.softcap), now


def embed(tokens: Sequence[int], w: Weights) -> Value:
    """The tokens' rows of wte. Tokens have no gradient, so the chain of backward functions ends here."""
    return Value(tuple(w["wte"][token] for token in tokens), lambda dy: ((), {"wte": collect(dy, tokens, w["wte"])}))


def place(x: Matrix, w: Weights, first: int) -> Value:
    """x and its positions' rows of wpe."""
    at = range(first, first + len(x))
    return Value(plus(x, tuple(w["wpe"][i] for i in at)), lambda dy: (dy, {"wpe": collect(dy, at, w["wpe"])}))


def collect(dy: Matrix, index: Sequence[int], w: Matrix) -> Matrix:
    """The gradient of w from those of some of its rows."""
    zero = (0.0,) * len(w[0])
    return tuple(
        tuple(map(sum, zip(zero, *(d for d, j in zip(dy, index, strict=True) if j == i), strict=True)))
        for i in range(len(w))
    )


def by_head(x: Matrix, first: int, model: Model) -> Value:
    """Rotation and norm of queries or keys, head by head, where the model has them."""
    heads = tuple(
        start(head).when(model.position == "rope", rotate, first, model).when(model.qk_norm, rmsnorm)
        for head in split(x, model.head_dim)
    )

    def back(dy: Matrix) -> tuple[Matrix, Weights]:
        return join(head.back(d)[0] for head, d in zip(heads, split(dy, model.head_dim), strict=True)), {}

    return Value(join(head.data for head in heads), back)


def append(x: Matrix, past: Matrix) -> Value:
    """x after the rows of the past, which are constants and have no gradient."""
    return Value(past + x, lambda dy: (dy[len(past) :], {}))


def dropout(x: Matrix, drops: Sequence[Matrix], at: int) -> Value:
    """x times the mask of a place (Srivastava et al. 2014)."""
    return Value(times(x, drops[at]), lambda dy: (times(dy, drops[at]), {}))


def residual(x: Matrix, branch: Value) -> Value:
    """x plus the branch that was computed from it; the gradient of x is the sum of both."""

    def back(dy: Matrix) -> tuple[Matrix, Weights]:
        dx, grads = branch.back(dy)
        return plus(dy, dx), grads

    return Value(plus(x, branch.data), back)


def cross_entropy(logits: Matrix, targets: Sequence[int], weights: Sequence[float]) -> Value:
    """The weighted sum (1, 1) of -log softmax(logits)[target]."""

    def one(row: Vector, target: int, weight: float) -> float:
        top = max(row)
        return weight * (math.log(sum(math.exp(z - top) for z in row)) + top - row[target])

    def one_back(row: Vector, target: int, weight: float) -> Vector:
        return tuple(weight * (p - (i == target)) for i, p in enumerate(softmax(row)))

    def back(dy: Matrix) -> tuple[Matrix, Weights]:
        return tuple(map(one_back, logits, targets, (weight * dy[0][0] for weight in weights))), {}

    return Value(((sum(map(one, logits, targets, weights)),),), back)


def step_loss(model: Model, w: Weights, feed: Feed, i: int, dropping: bool) -> Value:
    """The mean loss (1, 1) of the scored targets of step i of the feed."""
    weight = 1 / max(1, feed.targets(i))

    def row_loss(row: int, tokens: list[int], scored: list[bool]) -> Value:
        drops = masks(model, feed.seed, feed.first_step + i, row, len(tokens) - 1) if dropping else ()
        logits, _ = forward(model, w, tokens[:-1], drops=drops)
        return logits.then(cross_entropy, tokens[1:], tuple(weight * counts for counts in scored[1:]))

    def back(dy: Matrix) -> tuple[Matrix, Weights]:
        return (), reduce(merge, (loss.back(dy)[1] for loss in losses))

    losses = tuple(row_loss(row, *tokens) for row, tokens in enumerate(feed.rows(i)))
    return Value(((sum(loss.data[0][0] for loss in losses),),), back)


def masks(model: Model, seed: int, step: int, row: int, T: int) -> tuple[Matrix, ...]:
    """Dropout for one row, for every place, keyed so that every engine drops the same numbers."""
    places = range(2 * model.n_layer + 1)
    return tuple(matrix(scales(model.dropout, seed, step, row, at, T, model.n_embd).tolist()) for at in places)


class State(NamedTuple):
    """Weights and moments."""

    w: Weights
    m: Weights
    v: Weights


def update(state: State, grads: Weights, optim: Optim, step: int, lr: float, scale: float) -> State:
    """The state after one optimizer step."""

    def one(p: float, g: float, m: float, v: float) -> tuple[float, float, float]:
        return rules.adam(p, g * scale, m, v, optim, step, lr)

    def matrices(name: str) -> tuple[Matrix, ...]:
        rows = zip(state.w[name], grads[name], state.m[name], state.v[name], strict=True)
        return tuple(zip(*(zip(*map(one, *row), strict=True) for row in rows), strict=True))

    new = {name: matrices(name) for name in state.w}
    return State(*(MappingProxyType({name: parts[j] for name, parts in new.items()}) for j in range(3)))


class Progress(NamedTuple):
    """How far a call of train has come."""

    state: State
    losses: tuple[float, ...]
    norms: tuple[float, ...]


@dataclass(frozen=True)
class Engine(engines.Engine):
    """The functional rung: see microgpt.engines.Engine."""

    model: Model
    optim: Optim
    _: KW_ONLY
    dtype: str = "float64"
    device: str = "cpu"
    threads: int = 0

    def load(self, tensors: Tensors) -> State:
        parts = to_lists(self.model, tensors)
        return State(*(MappingProxyType({name: matrix(rows) for name, rows in part.items()}) for part in parts))

    def dump(self, state: State) -> Tensors:
        return from_lists(*state)

    def train(
        self, state: State, feed: Feed, lrs: np.ndarray, norms: np.ndarray | None = None
    ) -> tuple[State, np.ndarray]:
        def advance(now: Progress, one: tuple[int, float]) -> Progress:
            if now.losses and not math.isfinite(now.losses[-1]):
                return now
            i, lr = one
            mean = step_loss(self.model, now.state.w, feed, i, self.model.dropout > 0)
            _, grads = mean.back(((1.0,),))
            norm = math.sqrt(sum(dot(row, row) for rows in grads.values() for row in rows))
            loss = rules.checked_loss(mean.data[0][0], norm)
            if not math.isfinite(loss):
                return Progress(now.state, (*now.losses, loss), now.norms)
            scale = rules.clip_scale(norm, self.optim.clip_norm)
            after = update(now.state, grads, self.optim, feed.first_step + i, lr, scale)
            return Progress(after, (*now.losses, loss), (*now.norms, norm))

        end = reduce(advance, enumerate(lrs.tolist()), Progress(state, (), ()))
        if norms is not None:
            copy_to(norms, end.norms)
        return end.state, to_array(end.losses)

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        return to_array(tuple(step_loss(self.model, state.w, feed, i, False).data[0][0] for i in range(feed.n_steps)))

    def logits(self, state: State, tokens: np.ndarray, cache: Cache | None = None) -> tuple[np.ndarray, Cache]:
        logits, now = forward(self.model, state.w, tokens.tolist(), cache)
        return to_array(logits.data), now
