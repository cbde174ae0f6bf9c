"""The chain rule as a library: the forward pass alone, autograd walks it back.

The same functions as in manual.py without their derivatives. Weights lie in one flat tensor, so that its gradient
is one tensor too and the optimizer one expression. bfloat16 means mixed precision: matrix products in bfloat16,
while weights, moments, norms and the loss stay float32.

Legend: B rows, T positions, D n_embd, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.common.dropout import scales
from microgpt.errors import MachineError, UsageError
from microgpt.feed import Feed, MicroBatch
from microgpt.model import Tensors, n_params, table

Weights = dict[str, Tensor]

# Below this many weights, waking a second thread for an operation costs more than it computes.
WORTH_THREADS = 1_000_000


def devices() -> tuple[str, ...]:
    """The devices that this machine has and PyTorch can compute on."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(name for name, is_there in there.items() if is_there)


def linear(x: Tensor, w: Tensor) -> Tensor:
    """y = x W^T: (..., in), (out, in) -> (..., out)."""
    return F.linear(x, w)


def rmsnorm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-5), over the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


@lru_cache(maxsize=8)
def rotation(first: int, T: int, size: int, base: float, pairs: str, like: tuple[Any, Any]) -> tuple[Tensor, ...]:
    """RoPE for positions first .. first + T: cosines and signed sines (T, size), and each channel's partner."""
    angle = np.arange(first, first + T)[:, None] * base ** (-2 * np.arange(size // 2) / size)
    cos, sin = np.cos(angle), np.sin(angle)
    if pairs == "interleaved":
        cos, sin = np.repeat(cos, 2, axis=1), np.stack([-sin, sin], axis=2).reshape(T, size)
        partner = np.arange(size) ^ 1
    else:
        cos, sin = np.hstack([cos, cos]), np.hstack([-sin, sin])
        partner = np.roll(np.arange(size), size // 2)
    dtype, device = like
    return (
        torch.tensor(cos, dtype=dtype, device=device),
        torch.tensor(sin, dtype=dtype, device=device),
        torch.tensor(partner, device=device),
    )


def rotate(x: Tensor, turn: tuple[Tensor, ...]) -> Tensor:
    """Turn channel pairs of (..., T, size) by their position's angle."""
    cos, sin, partner = turn
    return x * cos + x[..., partner] * sin


def activate(x: Tensor, activation: str) -> Tensor:
    """ReLU, its square, or GELU in its tanh form."""
    if activation == "relu":
        return F.relu(x)
    if activation == "relu2":
        return F.relu(x).square()
    return F.gelu(x, approximate="tanh")


@lru_cache(maxsize=8)
def future(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S): whether key s lies after query t, the queries being the last T of S positions."""
    return torch.ones(T, S, dtype=torch.bool, device=device).triu(1 + S - T)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(size)) v, causal: (B, H, T, size), (B, H, S, size) -> (B, H, T, size).

    Not the library's scaled_dot_product_attention, whose CPU kernel makes finite numbers of scores that are NaN.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(future(q.shape[-2], k.shape[-2], q.device), -math.inf).softmax(-1).to(v.dtype) @ v


def split(x: Tensor, H: int) -> Tensor:
    """(B, T, D) -> (B, H, T, D / H), a view."""
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    """(B, H, T, size) -> (B, T, D)."""
    return x.transpose(1, 2).flatten(2)


class Cache:
    """Keys and values (1, H, block_size, size) of each layer, of which `length` positions are filled."""

    def __init__(self, model: Model) -> None:
        self.model, self.length = model, 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's new keys and values; returns all of them."""
        if layer == len(self.keys):  # made at first use, in the type that the forward pass computes in
            shape = (1, self.model.n_head, self.model.block_size, self.model.head_dim)
            self.keys.append(k.new_empty(shape))
            self.values.append(v.new_empty(shape))
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


def head_forward(x: Tensor, model: Model, turn: Any) -> Tensor:
    """Rotation and norm of queries or keys, where the model has them."""
    if turn is not None:
        x = rotate(x, turn)
    return rmsnorm(x) if model.qk_norm else x


def turns(model: Model, first: int, T: int, like: Tensor) -> Any:
    """The rotation of T positions from `first` on, or None."""
    if model.position != "rope":
        return None
    return rotation(first, T, model.head_dim, model.rope_base, model.rope_pairs, (like.dtype, like.device))


def forward(
    model: Model, w: Weights, tokens: Tensor, cache: Cache | None = None, drops: list[Tensor] | None = None
) -> Tensor:
    """Logits (B, T, V) of tokens (B, T). A cache continues one row."""
    T = tokens.shape[1]
    first = cache.length if cache else 0
    turn = turns(model, first, T, w["wte"])
    x = F.embedding(tokens, w["wte"])
    if model.position == "learned":
        x = x + w["wpe"][first : first + T]
    if model.norm_embedding:
        x = rmsnorm(x)
    if drops:
        x = x * drops[0]
    for i in range(model.n_layer):
        n = rmsnorm(x)
        q, k, v = (split(linear(n, w[f"layer{i}.attn_w{name}"]), model.n_head) for name in "qkv")
        q, k = head_forward(q, model, turn), head_forward(k, model, turn)
        q, k = q.to(v.dtype), k.to(v.dtype)  # where mixed precision has lifted them to float32
        if cache:
            k, v = cache.extend(i, k, v)
        o = linear(join(attention(q, k, v)), w[f"layer{i}.attn_wo"])
        x = x + (o * drops[2 * i + 1] if drops else o)
        h = activate(linear(rmsnorm(x), w[f"layer{i}.mlp_fc1"]), model.activation)
        o = linear(h, w[f"layer{i}.mlp_fc2"])
        x = x + (o * drops[2 * i + 2] if drops else o)
    if cache:
        cache.length += T
    if model.final_norm:
        x = rmsnorm(x)
    logits = linear(x, w["wte" if model.tie_embeddings else "lm_head"]).to(x.dtype)
    return model.softcap * torch.tanh(logits / model.softcap) if model.softcap else logits


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of -log softmax(logits)[target]."""
    return (F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none") * weights.flatten()).sum()


class State:
    """Weights and moments, each one flat tensor, and the shapes of the matrices in them."""

    def __init__(self, model: Model, like: tuple[torch.dtype, str]) -> None:
        self.shapes = [(w.name, w.shape) for w in table(model)]
        self.w, self.m, self.v = (torch.zeros(n_params(model), dtype=like[0], device=like[1]) for _ in range(3))

    def views(self, flat: Tensor) -> Weights:
        """A flat tensor's matrices by name."""
        parts = flat.split([rows * columns for _, (rows, columns) in self.shapes])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes, parts, strict=True)}


class Engine:
    """The pytorch rung: see microgpt.engines.Engine. Raises MachineError for a device that is not there."""

    def __init__(
        self, model: Model, optim: Optim, *, dtype: str = "float32", device: str = "cpu", threads: int = 0
    ) -> None:
        kind = device.partition(":")[0]
        if kind not in devices():
            raise MachineError(f"--device {device}: not on this machine; PyTorch finds {' and '.join(devices())} here")
        if (kind, dtype) == ("mps", "float64"):
            raise UsageError("--dtype float64: --device mps has no such numbers; take float32, or --device cpu")
        self.model, self.optim, self.device, self.dtype = model, optim, device, dtype
        self.threads = threads or (torch.get_num_threads() if n_params(model) >= WORTH_THREADS else 1)
        self.stored = torch.float64 if dtype == "float64" else torch.float32

    generate = None

    @staticmethod
    def remark(model: Model, dtype: str) -> str | None:
        return None

    def load(self, tensors: Tensors) -> State:
        state = State(self.model, (self.stored, self.device))
        for flat, prefix in ((state.w, ""), (state.m, "m."), (state.v, "v.")):
            for name, view in state.views(flat).items():
                if prefix + name in tensors:
                    view.copy_(torch.tensor(tensors[prefix + name]))
        return state

    def dump(self, state: State) -> Tensors:
        parts = ((state.w, ""), (state.m, "m."), (state.v, "v."))
        return {
            prefix + name: view.to("cpu", copy=True).numpy()
            for flat, prefix in parts
            for name, view in state.views(flat).items()
        }

    def train(self, state: State, feed: Feed, lrs: np.ndarray) -> tuple[State, np.ndarray]:
        losses: list[float] = []
        with self._threads():
            for i, lr in enumerate(lrs.tolist()):
                step = feed.first_step + i
                loss, g = self._gradient(state, feed, i, step)
                losses.append(loss)
                norm = float(torch.linalg.vector_norm(g))
                if not math.isfinite(loss + norm):
                    losses[-1] = math.nan if math.isfinite(loss) else loss
                    break
                g = g * rules.clip_scale(norm, self.optim.clip_norm)
                state.w, state.m, state.v = rules.adam(state.w, g, state.m, state.v, self.optim, step, lr)
        return state, np.array(losses)

    def _gradient(self, state: State, feed: Feed, i: int, step: int) -> tuple[float, Tensor]:
        """The loss of step i of the feed and its gradient, flat, summed over the step's passes."""
        loss, g = 0.0, torch.zeros_like(state.w)
        flat = state.w.detach().requires_grad_()
        for rows in feed.micro_batches(i):
            drops = masks(self.model, feed, rows, step, flat) if self.model.dropout else None
            part = self._loss(state.views(flat), rows, drops)
            g += torch.autograd.grad(part, flat)[0]
            loss += part.item()
        return loss, g

    def _loss(self, w: Weights, rows: MicroBatch, drops: list[Tensor] | None = None) -> Tensor:
        inputs, targets = (torch.tensor(a, dtype=torch.int64, device=self.device) for a in (rows.inputs, rows.targets))
        weights = torch.tensor(rows.weights, dtype=self.stored, device=self.device)
        with self._precision():
            logits = forward(self.model, w, inputs, drops=drops)
        return cross_entropy(logits, targets, weights)

    def loss(self, state: State, feed: Feed) -> np.ndarray:
        w = state.views(state.w)
        with self._threads(), torch.no_grad():
            steps = range(feed.n_steps)
            return np.array([sum(self._loss(w, rows).item() for rows in feed.micro_batches(i)) for i in steps])

    def logits(self, state: State, tokens: np.ndarray, cache: Cache | None = None) -> tuple[np.ndarray, Cache]:
        cache = cache or Cache(self.model)
        with self._threads(), torch.no_grad(), self._precision():
            row = torch.tensor(np.asarray(tokens)[None], dtype=torch.int64, device=self.device)
            return forward(self.model, state.views(state.w), row, cache)[0].cpu().numpy(), cache

    def _precision(self) -> Any:
        """Matrix products in bfloat16, where that was asked for."""
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.dtype == "bfloat16")

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """This engine's number of threads; PyTorch's is the whole process's, so it is put back."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def masks(model: Model, feed: Feed, rows: MicroBatch, step: int, like: Tensor) -> list[Tensor]:
    """Dropout for a pass: for each place (B, T, D) factors."""
    B, T = rows.inputs.shape
    return [
        torch.tensor(
            np.stack(
                [scales(model.dropout, feed.seed, step, rows.first_row + b, place, T, model.n_embd) for b in range(B)]
            ),
            dtype=like.dtype,
            device=like.device,
        )
        for place in range(2 * model.n_layer + 1)
    ]
