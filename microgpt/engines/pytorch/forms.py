"""How the engine computes on a device: the same numbers in a form that suits it.

A CPU takes rows at their own length, and the loss of each step is read. A GPU would wait for the host and compile for
every length: there all shapes are the same, nothing is read before a block of steps ends, and layers are compiled.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from microgpt import files
from microgpt import optim as rules
from microgpt.config import Model, Optim
from microgpt.engines.common.dropout import key, mix, threshold
from microgpt.engines.pytorch import model as parts
from microgpt.feed import Feed


class Form(NamedTuple):
    """The choices; each alone gives the same numbers up to rounding, on every device."""

    waits: bool = True  # the host waits for the loss of each step; if not (needs `static`) it reads all at the end
    static: bool = False  # every micro-batch of a feed has the same rows, each of block_size positions
    align: int = 1  # the vocabulary is padded to a multiple of this
    library: bool = False  # attention by the library
    compiler: str | None = None  # the backend of torch.compile for layers, the head and the update
    copied: bool = False  # weights are cast to the type of matrix products once per step, instead of at each product
    prefetches: bool = False  # a thread gathers the next micro-batch while the device computes; needs `static`
    captured: bool = False  # on a GPU a micro-batch is one CUDA graph, and so is the update; not if it `waits`
    deterministic: bool = False  # the library's deterministic algorithms alone


def form_of(kind: str, dtype: str, deterministic: bool) -> Form:
    """The form for a kind of device."""
    if kind != "cuda":
        return Form()
    compiler = "inductor" if importlib.util.find_spec("triton") else None
    copied = dtype == "bfloat16"
    return Form(False, True, 64, True, compiler, copied, prefetches=True, captured=True, deterministic=deterministic)


class Functions(NamedTuple):
    """The functions that may be compiled."""

    layer: Callable[..., Tensor]
    head_loss: Callable[..., Tensor]
    update: Callable[..., None]


def functions(compiler: str | None) -> Functions:
    """Compiled by a backend of torch.compile, whose code is kept in the user's cache, or as they are.

    Not as `fullgraph`, which would refuse the ninth shape or model in a process; those run uncompiled.
    """
    plain = Functions(parts.block, parts.head_loss, update)
    if compiler is None:
        return plain
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(files.cache_folder("inductor")))
    compiled: Any = [torch.compile(each, dynamic=False, backend=compiler) for each in plain]
    return Functions(*compiled)


def update(
    optim: Optim, w: Tensor, g: Tensor, m: Tensor, v: Tensor, norm: Tensor, alive: Tensor, step: Tensor, lr: Tensor
) -> None:
    """Adam's update of w, m and v in place, where `alive`. All but the first five are 0-d tensors on the device."""
    if optim.clip_norm:
        g = g * (optim.clip_norm / norm).clamp(max=1.0)
    for new, old in zip(rules.adam(w, g, m, v, optim, step, lr), (w, m, v), strict=True):
        old.copy_(torch.where(alive, new, old))


def shape_of(feed: Feed, block_size: int, n_processes: int) -> tuple[int, int]:
    """The rows and positions that hold every micro-batch of a feed."""
    most = int(np.diff(feed.steps).max(initial=1))
    share = -(-most // n_processes)
    return min(feed.micro_batch_size or share, share), block_size


def dropout(
    model: Model, seed: int, step: Any, first_row: Any, shape: tuple[int, int], dtype: torch.dtype, device: str
) -> list[Tensor]:
    """The factors (B, T, D) of dropout for each place, made on the device; an empty list for a model without.

    They are those of engines.common.dropout: int64 keeps the lower 32 bits of its products as uint64 does. The step's
    number and that of its first row may be 0-d int64 tensors.
    """
    if not model.dropout:
        return []
    (B, T), D = shape, model.n_embd
    rows = first_row + torch.arange(B, device=device).view(B, 1)
    places = torch.arange(2 * model.n_layer + 1, device=device).view(1, -1)
    step = step if isinstance(step, Tensor) else int(step)
    keys = key(int(seed), step, *torch.broadcast_tensors(rows, places))
    index = torch.arange(T * D, device=device)
    kept = torch.full((), 1.0 / (1.0 - model.dropout), dtype=dtype, device=device)
    least = threshold(model.dropout)
    return [((mix(index ^ of[:, None]) >= least) * kept).view(B, T, D) for of in keys.unbind(1)]
