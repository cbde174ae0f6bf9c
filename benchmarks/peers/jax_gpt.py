"""JAX: pure functions under jit, a whole run in one lax.scan or a step a call; Adam by hand as optax has it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.work import Work
from microgpt.config import Model
from microgpt.model import Tensors

jax.config.update("jax_platforms", "cpu")
Weights = dict[str, jax.Array]
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "gelu": partial(jax.nn.gelu, approximate=True),
}


def fuse(tensors: Tensors) -> Weights:
    """Weights as float32 (in, out), with wq, wk and wv of a layer in one; wte and wpe as they are."""
    out = {}
    for name, value in tensors.items():
        layer, _, matrix = name.partition(".")
        if matrix == "attn_wq":
            value = np.concatenate([tensors[f"{layer}.attn_{part}"] for part in ("wq", "wk", "wv")])
            name = f"{layer}.qkv"
        elif matrix in ("attn_wk", "attn_wv"):
            continue
        out[name] = jnp.asarray(value if name in ("wte", "wpe") else value.T, jnp.float32)
    return out


def norm(x: jax.Array) -> jax.Array:
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)


def turns(m: Model) -> tuple[jax.Array, jax.Array]:
    """RoPE's cosines and sines (block, size / 2)."""
    angle = np.arange(m.block_size)[:, None] * m.rope_base ** (-2 * np.arange(m.head_dim // 2) / m.head_dim)
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Interleaved pairs of the last axis."""
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)


def embed(m: Model, w: Weights, tokens: jax.Array, positions: Any) -> jax.Array:
    x = w["wte"][tokens]
    if m.position == "learned":
        x = x + w["wpe"][positions]
    return norm(x) if m.norm_embedding else x


def mlp(m: Model, w: Weights, i: int, x: jax.Array) -> jax.Array:
    return x + ACTIVATIONS[m.activation](norm(x) @ w[f"layer{i}.mlp_fc1"]) @ w[f"layer{i}.mlp_fc2"]


def head(m: Model, w: Weights, x: jax.Array) -> jax.Array:
    x = norm(x) if m.final_norm else x
    return x @ (w["wte"].T if m.tie_embeddings else w["lm_head"])


def loss(m: Model, w: Weights, tokens: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted loss of (B, T)."""
    B, T = tokens.shape
    x = embed(m, w, tokens, slice(None, T))
    cos, sin = (a[:T, None] for a in turns(m))
    causal = jnp.tril(jnp.ones((T, T), bool))
    for i in range(m.n_layer):
        q, k, v = jnp.split((norm(x) @ w[f"layer{i}.qkv"]).reshape(B, T, 3 * m.n_head, m.head_dim), 3, axis=2)
        if m.position == "rope":
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * m.head_dim**-0.5
        p = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), -1)
        x = x + jnp.einsum("bhts,bshd->bthd", p, v).reshape(B, T, -1) @ w[f"layer{i}.attn_wo"]
        x = mlp(m, w, i, x)
    logp = jax.nn.log_softmax(head(m, w, x))
    return -(jnp.take_along_axis(logp, targets[..., None], -1)[..., 0] * weights).sum()


class Jax:
    """A side of the race: all steps in one compiled scan, or one compiled step called again and again."""

    def __init__(self, work: Work, whole: bool) -> None:
        self.work, self.whole = work, whole
        self.name = "JAX, scan over steps" if whole else "JAX, jit a step"
        inputs, targets, weights = work.rectangles()
        steps = np.arange(1, work.steps + 1)
        fix1, fix2 = 1 / (1 - work.optim.beta1**steps), 1 / (1 - work.optim.beta2**steps)
        floats = [jnp.asarray(a, jnp.float32) for a in (weights, work.lrs * fix1, fix2)]
        self.xs = (jnp.asarray(inputs), jnp.asarray(targets), *floats)
        self.rows = [jax.tree.map(lambda a, i=i: a[i], self.xs) for i in range(work.steps)] if not whole else []
        self.step = jax.jit(self._step, donate_argnums=0)
        self.run = jax.jit(lambda state, xs: lax.scan(self._step, state, xs), donate_argnums=0)

    def _step(self, state: Any, x: Any) -> tuple[Any, jax.Array]:
        (w, m, v), (tokens, targets, weights, lr, fix2) = state, x
        optim = self.work.optim
        value, g = jax.value_and_grad(partial(loss, self.work.model))(w, tokens, targets, weights)
        m = jax.tree.map(lambda m, g: optim.beta1 * m + (1 - optim.beta1) * g, m, g)
        v = jax.tree.map(lambda v, g: optim.beta2 * v + (1 - optim.beta2) * g * g, v, g)
        w = jax.tree.map(lambda w, m, v: w - lr * m / (jnp.sqrt(v * fix2) + optim.eps), w, m, v)
        return (w, m, v), value

    def reset(self) -> None:
        w = fuse(self.work.tensors)
        zeros = [jax.tree.map(jnp.zeros_like, w) for _ in range(2)]
        self.state = jax.block_until_ready((w, *zeros))

    def train(self) -> np.ndarray:
        if self.whole:
            self.state, losses = self.run(self.state, self.xs)
        else:
            found = []
            for x in self.rows:
                self.state, value = self.step(self.state, x)
                found.append(value)
            losses = jnp.stack(found)
        return np.asarray(jax.block_until_ready(losses), np.float64)


def sides(work: Work) -> list[Any]:
    """Both forms."""
    return [Jax(work, whole=True), Jax(work, whole=False)]


class Decoder:
    """Generation with a cache of keys and values, a batch of B sequences, the loop inside the compiled code."""

    def __init__(self, model: Model, tensors: Tensors, batch: int) -> None:
        self.m, self.B, self.w = model, batch, fuse(tensors)
        self.turn = turns(model)
        self.drawn = jax.jit(self._drawn, static_argnums=(3, 5))
        self.given = jax.jit(self._given)

    def _empty(self) -> jax.Array:
        m = self.m
        return jnp.zeros((self.B, m.n_layer, 2, m.n_head, m.block_size, m.head_dim))

    def _one(self, w: Weights, cache: jax.Array, token: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits (V,) of one sequence's token at its position t, and the cache with it."""
        m = self.m
        x = embed(m, w, token, t)
        cos, sin = (a[t] for a in self.turn)
        seen = jnp.arange(m.block_size) <= t
        for i in range(m.n_layer):
            q, k, v = jnp.split((norm(x) @ w[f"layer{i}.qkv"]).reshape(3 * m.n_head, m.head_dim), 3)
            if m.position == "rope":
                q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            cache = lax.dynamic_update_slice(cache, jnp.stack([k, v])[None, :, :, None], (i, 0, 0, t, 0))
            scores = jnp.einsum("hd,hsd->hs", q, cache[i, 0]) * m.head_dim**-0.5
            p = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1)
            x = x + jnp.einsum("hs,hsd->hd", p, cache[i, 1]).reshape(-1) @ w[f"layer{i}.attn_wo"]
            x = mlp(m, w, i, x)
        return head(m, w, x), cache

    def _given(self, w: Weights, tokens: jax.Array) -> jax.Array:
        def step(cache: jax.Array, x: Any) -> tuple[jax.Array, jax.Array]:
            logits, cache = self._one(w, cache, *x)
            return cache, logits

        return lax.scan(step, self._empty()[0], (tokens, jnp.arange(len(tokens))))[1]

    def _drawn(
        self, w: Weights, key: jax.Array, first: int, count: int, temperature: float, restart: bool
    ) -> jax.Array:
        """Tokens (count, B). With `restart` a sequence that draws `first` begins anew, so that no work is wasted."""
        m = self.m
        chance = jax.random.uniform(key, (count, self.B, 1))

        def step(carry: Any, u: jax.Array) -> tuple[Any, jax.Array]:
            cache, tokens, t = carry
            one = jax.vmap(self._one, in_axes=(None, 0, 0, 0 if restart else None))
            logits, cache = one(w, cache, tokens, t)
            mass = jnp.cumsum(jnp.exp((logits - logits.max(-1, keepdims=True)) / temperature), -1)
            drawn = jnp.minimum((mass <= u * mass[:, -1:]).sum(-1), m.vocab - 1)
            if not restart:
                return (cache, drawn, t + 1), drawn
            over = (drawn == first) | (t + 1 == m.block_size)
            return (cache, jnp.where(over, first, drawn), jnp.where(over, 0, t + 1)), drawn

        t = jnp.zeros(self.B, jnp.int32) if restart else jnp.int32(0)
        return lax.scan(step, (self._empty(), jnp.full(self.B, first), t), chance)[1]

    def follow(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (T, V) of given tokens (T,), to be compared."""
        return np.asarray(self.given(self.w, jnp.asarray(tokens)), np.float64)

    def generate(self, first: int, count: int, temperature: float, restart: bool = False) -> np.ndarray:
        """Tokens (B, count) drawn one after another from the token `first` on."""
        out = self.drawn(self.w, jax.random.key(0), first, count, temperature, restart)
        return np.asarray(jax.block_until_ready(out)).T
