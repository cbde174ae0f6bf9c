"""Shared by several formats: the order of RoPE's channels, a norm folded into a table, refusals by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from microgpt.config import Model
from microgpt.errors import UsageError
from microgpt.tokenizers import Tokenizer

EPS = 1e-5  # of every RMSNorm
GIST_HINT = "; microgpt train with --family classic --tokenizer char makes one that it holds"


def pair_rows(w: np.ndarray, model: Model, pairs: str) -> np.ndarray:
    """The rows of wq or wk (D, D), ordered for a RoPE that rotates the channel pairs `pairs`.

    `half` and `interleaved` are those of the configuration; `half reversed` swaps the halves of each head.
    A score is a sum over channels, so the same order for q and k changes no score.
    """
    heads = w.reshape(model.n_head, model.head_dim, -1)
    target = pairs.removesuffix(" reversed")
    if model.rope_pairs != target:
        split = (model.head_dim // 2, 2) if target == "half" else (2, model.head_dim // 2)
        heads = heads.reshape(model.n_head, *split, -1).swapaxes(1, 2).reshape(heads.shape)
    if pairs.endswith("reversed"):
        heads = np.roll(heads, model.head_dim // 2, axis=1)
    return np.ascontiguousarray(heads.reshape(w.shape))


def normed(wte: np.ndarray) -> np.ndarray:
    """The embedding table with the norm after it applied; exact for models without learned positions."""
    x = wte.astype(np.float64)
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPS)


def require(reader: str, needs: Iterable[tuple[bool, str]], hint: str = "") -> None:
    """Raise UsageError with every option of a model that `reader` cannot hold; `needs` are (fulfilled, sentence)."""
    problems = [sentence for fulfilled, sentence in needs if not fulfilled]
    if problems:
        raise UsageError(f"{reader} cannot hold this model: {', '.join(problems)}{hint}", "E_FORMAT")


def gist_needs(model: Model, tokenizer: Tokenizer) -> tuple[tuple[bool, str], ...]:
    """The options of the gist's architecture, which kgx and muchq compute, for `require`."""
    return (
        (tokenizer.kind == "char", f"its tokens are characters, not {tokenizer.kind}"),
        (model.position == "learned", f"position = {model.position} (it has learned ones)"),
        (model.norm_embedding, "norm_embedding = false"),
        (not model.final_norm, "final_norm = true"),
        (not model.tie_embeddings, "tie_embeddings = true"),
        (not model.qk_norm, "qk_norm = true"),
        (not model.softcap, f"softcap = {model.softcap}"),
    )
