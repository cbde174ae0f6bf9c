"""What several formats ask of the weights: another order of channels, a norm folded away, a clear refusal."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from microgpt.config import Model
from microgpt.errors import UsageError

EPS = 1e-5  # of every RMSNorm


def pair_rows(w: np.ndarray, model: Model, pairs: str) -> np.ndarray:
    """The rows of wq or wk (D, D), so that RoPE turns channels together as `pairs` says.

    `half` and `interleaved` are those of the configuration; `half reversed` turns the halves the other way round.
    Scores q k are sums over channels, so one order for both changes none.
    """
    heads = w.reshape(model.n_head, model.head_dim, -1)
    wanted = pairs.removesuffix(" reversed")
    if model.rope_pairs != wanted:
        split = (model.head_dim // 2, 2) if wanted == "half" else (2, model.head_dim // 2)
        heads = heads.reshape(model.n_head, *split, -1).swapaxes(1, 2).reshape(heads.shape)
    if pairs.endswith("reversed"):
        heads = np.roll(heads, model.head_dim // 2, axis=1)
    return np.ascontiguousarray(heads.reshape(w.shape))


def normed(wte: np.ndarray) -> np.ndarray:
    """The embedding table with the norm that follows it, exact where a position adds nothing in between."""
    x = wte.astype(np.float64)
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPS)


def require(reader: str, needs: Iterable[tuple[bool, str]], hint: str = "") -> None:
    """Raise UsageError with everything that `reader` cannot hold of a model; `needs` are (fulfilled, sentence)."""
    problems = [sentence for fulfilled, sentence in needs if not fulfilled]
    if problems:
        raise UsageError(f"{reader} cannot hold this model: {', '.join(problems)}{hint}", "E_FORMAT")
