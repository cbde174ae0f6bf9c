"""What compiled code is told: the model in numbers, the rows to compute, and where everything lies.

Legend: N positions of some rows, one row after another without padding; T positions of one row; D n_embd, H heads,
V vocabulary. All widths in memory are padded to whole vectors; what pads is zero and stays so: it adds nothing to a
product, a norm or a gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from microgpt.engines.fused.tiles import PAIR
from microgpt.engines.fused.vectors import inline

P = Any  # a pointer
NEAR = 8192  # numbers that stay in the nearest cache beside others


class Shape(NamedTuple):
    """The model in numbers: widths in truth and padded, options, and where each matrix begins in the flat vectors."""

    D: int
    V: int
    H: int
    size: int  # channels a head
    layers: int
    Dp: int
    Fp: int
    Vp: int
    learned: bool
    rope: bool
    half: bool  # RoPE's pairs are half a head apart
    activation: int  # 0 relu, 1 relu2, 2 gelu
    norm_embedding: bool
    final_norm: bool
    qk_norm: bool
    short: bool  # heads so small that several lie in a vector: rows of up to a vector's length go another way
    softcap: float
    dropout: float
    wte: int
    wpe: int
    wpe_size: int
    block: int  # rows of wpe
    head: int
    layer: int  # the first layer's qkv
    wo: int  # from there
    fc1: int
    fc2: int
    step: int  # from a layer to the next
    n: int  # all weights


class Rows(NamedTuple):
    """Rows low .. high of the feed, and what dropout must know of them."""

    tokens: P
    offsets: P
    low: int
    high: int
    first_row: int  # of the step
    dropping: bool
    seed: int
    step: int


class Cache(NamedTuple):
    """Keys and values (layers, Dp, ld) of the positions so far, or none."""

    k: P
    v: P
    ld: int
    past: int
    active: bool


class Trace(NamedTuple):
    """What the backward pass needs of the forward pass, and room to work in; for every layer unless noted."""

    x: P  # the residual stream, not by layer
    x0: P  # the normed embedding, not by layer
    r0: P
    n1: P
    r1: P
    heads: P  # for each row queries, keys, values and mix (4 Dp, ld)
    rq: P  # of the norm of queries and keys (2 H, ld)
    top: P  # of the scores (H, ld)
    inverse: P
    pairs: P  # of rows that go the short way, the weights of queries and keys
    mix: P
    n2: P
    r2: P
    h: P
    a: P
    y: P  # the head's input, not by layer
    r: P
    logits: P
    dlogits: P
    qkv: P  # room from here on
    o: P
    dx: P
    do: P
    dn: P
    da: P
    dheads: P
    p: P
    ds: P
    end: P
    panels: P  # room for the operands of a linear layer: copied, or of words where products are of bfloat16s


@inline
def place(i: int, j: int, M: int, N: int, W: int) -> int:
    """Where column j, at a whole vector, of row i lies in an (M, N) matrix in panels; see `product`."""
    within = j % (PAIR * W)
    return (j - within) * M + i * min(PAIR * W, N - j + within) + within


@inline
def lay_out(c: Shape, p: P, panels: P, N: int, columns: int, S: int, W: int) -> Trace:
    """The trace of N positions that take `columns` columns by row, at most S keys a row, W lanes; from p on."""
    L, D = c.layers, c.Dp
    slack = 2 * W * W  # blocks are read and written whole
    numbers = N + W - N % W + slack  # one a position; every part begins at a whole vector
    layers = L * N + W - L * N % W + slack
    stream, deep = N * D + slack, L * N * D + slack
    wide, deep_wide = N * c.Fp + slack, L * N * c.Fp + slack
    logits = N * c.Vp + slack
    heads, scores = c.H * L * columns + slack, (S + 3 * W) * W + slack
    x = p
    x0 = x + stream
    r0 = x0 + stream
    n1 = r0 + numbers
    r1 = n1 + deep
    qkvy = r1 + layers
    rq = qkvy + (4 * L * D * columns + slack)
    top = rq + 2 * heads
    inverse = top + heads
    pairs = inverse + heads
    mix = pairs + (L * columns * (W + 1) // 2 * D + slack if c.short else 0)
    n2 = mix + deep
    r2 = n2 + deep
    h = r2 + layers
    a = h + deep_wide
    y = a + deep_wide
    r = y + stream
    z = r + numbers
    dz = z + (logits if c.softcap > 0 else 0)  # else the gradients take the logits' place
    qkv = dz + logits
    o = qkv + 3 * stream
    dx = o + stream
    do = dx + stream
    dn = do + stream
    da = dn + stream
    dheads = da + wide
    weights = dheads + (4 * D * columns + slack)
    ds = weights + scores
    end = ds + scores
    return Trace(
        x, x0, r0, n1, r1, qkvy, rq, top, inverse, pairs, mix, n2, r2, h, a, y, r, z, dz, qkv, o, dx, do, dn, da,
        dheads, weights, ds, end, panels,
    )  # fmt: skip
