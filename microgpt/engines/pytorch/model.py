"""The forward pass of the pytorch engine: the functions of manual.py without their derivatives.

Legend: B rows, T positions, D n_embd, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from microgpt.config import Model
from microgpt.engines.common.arrays import rope_tables

Weights = dict[str, Tensor]
QKV = "attn_wqkv"  # attn_wq, attn_wk and attn_wv as one matrix


def linear(x: Tensor, w: Tensor) -> Tensor:
    """y = x W^T: (..., in), (out, in) -> (..., out)."""
    return F.linear(x, w)


def rmsnorm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-5), over the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


@lru_cache(maxsize=8)
def on_device(first: int, T: int, size: int, base: float, pairs: str, like: tuple[Any, Any]) -> tuple[Tensor, ...]:
    """The cosines and signed sines of `rope_tables` as tensors of a dtype on a device, which are `like`."""
    cos, sin, _ = rope_tables(first, T, size, base, pairs, "float64")
    dtype, device = like
    return torch.tensor(cos, dtype=dtype, device=device), torch.tensor(sin, dtype=dtype, device=device)


def rotate(x: Tensor, rope: tuple[Tensor, ...], pairs: str) -> Tensor:
    """Rotate channel pairs of (..., T, size) by their position's angle.

    Partners are found by moving, not by an index, whose gradient a GPU would have to scatter.
    """
    cos, sin = rope
    half = x.shape[-1] // 2
    partner = x.roll(half, -1) if pairs == "half" else x.unflatten(-1, (half, 2)).flip(-1).flatten(-2)
    return x * cos + partner * sin


def activate(x: Tensor, activation: str) -> Tensor:
    """ReLU, its square, or GELU in its tanh form."""
    if activation == "relu":
        return F.relu(x)
    if activation == "relu2":
        return F.relu(x).square()
    return F.gelu(x, approximate="tanh")


@lru_cache(maxsize=8)
def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S): whether key s lies after query t, the queries being the last T of S positions."""
    return torch.ones(T, S, dtype=torch.bool, device=device).triu(1 + S - T)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(size)) v, causal: (B, H, T, size), (B, H, S, size) -> (B, H, T, size).

    Without a mask it is the library's scaled_dot_product_attention of S = T positions, for GPUs: its CPU kernel makes
    finite numbers of scores that are NaN.
    """
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(mask, -math.inf).softmax(-1).to(v.dtype) @ v


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


def head_forward(x: Tensor, model: Model, rope: Any) -> Tensor:
    """Rotation and norm of queries or keys, where the model has them."""
    if rope is not None:
        x = rotate(x, rope, model.rope_pairs)
    return rmsnorm(x) if model.qk_norm else x


def tables(model: Model, first: int, T: int, like: Tensor, library: bool = False) -> tuple[Any, Tensor | None]:
    """The RoPE tables of T positions from `first` on, and their mask; None for a model or an attention without."""
    where = first, T, model.head_dim, model.rope_base, model.rope_pairs, (like.dtype, like.device)
    rope = on_device(*where) if model.position == "rope" else None
    return rope, None if library else causal_mask(T, first + T, like.device)


def block(
    model: Model,
    x: Tensor,
    w: Sequence[Tensor],
    rope: Any,
    mask: Tensor | None,
    drops: Sequence[Tensor] = (),
    extend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """A layer: (B, T, D) -> (B, T, D). Weights are those of queries, keys and values in one (3D, D), wo, fc1, fc2."""
    wqkv, wo, fc1, fc2 = w
    q, k, v = (split(part, model.n_head) for part in linear(rmsnorm(x), wqkv).split(model.n_embd, -1))
    q, k = head_forward(q, model, rope), head_forward(k, model, rope)
    q, k = q.to(v.dtype), k.to(v.dtype)  # where mixed precision has lifted them to float32
    if extend:
        k, v = extend(k, v)
    o = linear(join(attention(q, k, v, mask)), wo)
    x = x + (o * drops[0] if drops else o)
    o = linear(activate(linear(rmsnorm(x), fc1), model.activation), fc2)
    return x + (o * drops[1] if drops else o)


def hidden(
    model: Model,
    w: Weights,
    tokens: Tensor,
    cache: Cache | None = None,
    drops: Sequence[Tensor] = (),
    known: tuple[Any, Tensor | None] | None = None,
    *,
    library: bool = False,
    layer: Callable[..., Tensor] = block,
) -> Tensor:
    """The residual stream (B, T, D) behind the last layer. A cache continues one row; `library`: see `attention`.

    `known`: the `tables` of these positions, which are kept here for the last few shapes alone.
    """
    T = tokens.shape[1]
    first = cache.length if cache else 0
    rope, mask = known or tables(model, first, T, w["wte"], library and not cache)
    x = F.embedding(tokens, w["wte"])
    if model.position == "learned":
        x = x + w["wpe"][first : first + T]
    if model.norm_embedding:
        x = rmsnorm(x)
    if drops:
        x = x * drops[0]
    for i in range(model.n_layer):
        own = [w[f"layer{i}.{name}"] for name in (QKV, "attn_wo", "mlp_fc1", "mlp_fc2")]
        extend = partial(cache.extend, i) if cache else None
        x = layer(model, x, own, rope, mask, drops[2 * i + 1 : 2 * i + 3], extend)
    if cache:
        cache.length += T
    return x


def head(model: Model, x: Tensor, w: Tensor) -> Tensor:
    """Logits (B, T, V) of the residual stream (B, T, D). The matrix may have more rows than V, which are left out."""
    if model.final_norm:
        x = rmsnorm(x)
    logits = linear(x, w)[..., : model.vocab].to(x.dtype)
    return model.softcap * torch.tanh(logits / model.softcap) if model.softcap else logits


def forward(model: Model, w: Weights, tokens: Tensor, cache: Cache | None = None) -> Tensor:
    """Logits (B, T, V) for tokens (B, T). A cache continues one row."""
    return head(model, hidden(model, w, tokens, cache), w[head_of(model)])


def head_loss(model: Model, x: Tensor, w: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted loss of the residual stream (B, T, D)."""
    return cross_entropy(head(model, x, w), targets, weights)


def head_of(model: Model) -> str:
    """The name of the matrix that makes logits."""
    return "wte" if model.tie_embeddings else "lm_head"


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of -log softmax(logits)[target]."""
    return (F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none") * weights.flatten()).sum()
