"""What compiled code is told: the model in numbers, the rows to compute, and where everything lies.

Legend: N positions of some rows, one row after another without padding; T positions of one row; D n_embd, H heads,
V vocabulary. All widths in memory are padded to whole vectors; what pads is zero and stays so: it adds nothing to a
product, a norm or a gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Pointers: to numbers of the engine's float type, to those or words of two bfloat16s, to int32, int64, float64, uint8.
P = Any
Operands = Any
Tokens = Any
Ints = Any
Doubles = Any
Bytes = Any

FOUR = 4  # slots of keys, and channels of values, that lie side by side where a sequence is a lane
PAIR = 2  # vectors in a row of a full tile, and of a panel
QUERIES = 64  # rows of scores at a time on the way back, a multiple of a vector
NEAR = 8192  # numbers that stay in the nearest cache beside others
NEARBY = 65536  # and in the second one
BLOCK = 256  # positions of which a weight's gradient takes so many at a time that a panel of them stays near
LINE = 16  # float64s from one thread's sums to the next, so that no two share a cache line


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
    Ds: int  # apart: from one position's Dp numbers to the next
    Qs: int  # of 3 Dp
    Fs: int
    Vs: int
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


class Matrix(NamedTuple):
    """Where a matrix (out, in) begins in the flat vectors, and its padded widths."""

    at: int
    fan_in: int
    fan_out: int


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
    alone: bool  # each has a product of its own that makes its queries, keys and values


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
    tops: P  # of the scores (H, ld)
    inverse: P
    pairs: P  # of rows that go the short way, the weights of queries and keys
    mix: P
    n2: P
    r2: P
    h: P
    y: P  # the head's input, not by layer
    r: P
    logits: P
    dlogits: P
    qkv: P  # room from here on
    o: P
    dx: P
    do: P
    dn: P
    a: P
    da: P
    dheads: P
    p: P
    ds: P
    end: P
    panels: P  # room for the operands of products: turned, or of words where they are of bfloat16s
    head_panels: P  # those of a head's attention: in there, behind those that make queries, keys and values


def apart(n: int, W: int) -> int:
    """Numbers from one row of n activations to the next: an odd number of vectors, unless there are few.

    Were it a large power of two, the beginnings of all rows would share a few places of the nearest cache.
    """
    return n + W if n >= 16 * W and n // W % 2 == 0 else n


def place(i: int, j: int, M: int, N: int, W: int) -> int:
    """Where column j, at a whole vector, of row i lies in an (M, N) matrix in panels; see products.py."""
    within = j % (PAIR * W)
    return (j - within) * M + i * min(PAIR * W, N - j + within) + within


def lay_out(c: Shape, p: P, panels: P, N: int, columns: int, S: int, W: int) -> Trace:
    """The trace of N positions that take `columns` columns by row, at most S keys a row, W lanes; from p on."""
    L, D = c.layers, c.Dp
    slack = 2 * W * W  # blocks are read and written whole
    numbers = N + W - N % W + slack  # one a position; every part begins at a whole vector
    layers = L * N + W - L * N % W + slack
    stream, deep = N * c.Ds + slack, L * N * c.Ds + slack
    wide, deep_wide = N * c.Fs + slack, L * N * c.Fs + slack
    logits = N * c.Vs + slack
    heads, scores = c.H * L * columns + slack, PAIR * W * (max(S, QUERIES) + W) + slack
    x = p
    x0 = x + stream
    r0 = x0 + stream
    n1 = r0 + numbers
    r1 = n1 + deep
    qkvy = r1 + layers
    rq = qkvy + (4 * L * D * columns + slack)
    tops = rq + 2 * heads
    inverse = tops + heads
    pairs = inverse + heads
    mix = pairs + (L * columns * (W + 1) // 2 * D + slack if c.short else 0)
    n2 = mix + deep
    r2 = n2 + deep
    h = r2 + layers
    y = h + deep_wide
    r = y + stream
    z = r + numbers
    dz = z + (logits if c.softcap > 0 else 0)  # else the gradients take the logits' place
    qkv = dz + logits
    o = qkv + (N * c.Qs + slack)
    dx = o + stream
    do = dx + stream
    dn = do + stream
    a = dn + stream
    da = a + wide
    dheads = da + wide
    weights = dheads + (4 * D * columns + slack)
    ds = weights + scores
    end = ds + (2 * PAIR * W * QUERIES + S + slack)
    head_panels = panels + (3 * D * D + 2 * D * (S + W) + 2 * NEAR)
    return Trace(
        x, x0, r0, n1, r1, qkvy, rq, tops, inverse, pairs, mix, n2, r2, h, y, r, z, dz, qkv, o, dx, do, dn, a, da,
        dheads, weights, ds, end, panels, head_panels,
    )  # fmt: skip


def room_size(c: Shape, N: int, columns: int, S: int, W: int) -> int:
    """Numbers that a trace takes."""
    return int(lay_out(c, 0, 0, N, columns, S, W).end)


class Desk(NamedTuple):
    """What the short way works on."""

    table: P  # (V, S, 4 Dp): the residual stream and layer 0's query, key, value of a token at a position
    known: P  # which of them are computed already
    keys: P  # (layers, S, Dp), as values
    values: P
    x: P
    n: P
    mix: P
    h: P
    r: P
    p: P
    logits: P


def desk(c: Shape, p: P, known: P, S: int, W: int) -> Desk:
    """The places from p on."""
    D = c.Dp
    keys = p + c.V * S * 4 * D
    values = keys + c.layers * S * D
    x = values + c.layers * S * D
    n = x + D
    mix = n + 3 * D
    h = mix + D
    r = h + c.Fp
    scores = r + W
    return Desk(p, known, keys, values, x, n, mix, h, r, scores, scores + S * W)


def desk_size(c: Shape, S: int, W: int) -> int:
    """Numbers that the short way works on."""
    return int(desk(c, 0, 0, S, W).logits) + c.Vp


def fours(n: int) -> int:
    """n rounded up to whole fours."""
    return (n + FOUR - 1) // FOUR * FOUR


class Side(NamedTuple):
    """What sequences side by side, n of them, work on."""

    token: P  # (n), as the next three
    at: P
    chance: P
    drawn: P
    logits: P  # (Vp, n)
    keys: P  # by layer and head; see streams.mix_slots
    values: P
    x: P
    y: P
    r: P
    qkv: P
    heads: P  # (3 Dp, n)
    mixed: P  # (Dp, n)
    h: P
    z: P  # the logits, (n, Vs)
    turns: P  # cosines and sines (size, n)
    p: P
    end: P


def side(c: Shape, p: P, n: int, slots: int, W: int) -> Side:
    """The places from p on."""
    heads, slack = c.layers * c.H * slots * n, 2 * W * W  # blocks are read and written whole
    logits = p + 4 * n
    keys = logits + (c.Vp * n + slack)
    values = keys + heads * c.size
    x = values + heads * ((c.size + FOUR - 1) // FOUR * FOUR)
    y = x + n * c.Ds
    r = y + (n * c.Ds + slack)
    qkv = r + n
    in_lanes = qkv + (n * c.Qs + slack)
    mixed = in_lanes + (3 * c.Dp * n + slack)
    h = mixed + (c.Dp * n + slack)
    z = h + n * c.Fs
    turns = z + (n * c.Vs + slack)
    scores = turns + c.size * n
    end = scores + slots * W
    return Side(
        p, p + n, p + 2 * n, p + 3 * n, logits, keys, values, x, y, r, qkv, in_lanes, mixed, h, z, turns, scores, end
    )


def side_size(c: Shape, n: int, slots: int, W: int) -> int:
    """Numbers that n sequences side by side take."""
    return int(side(c, 0, n, slots, W).end)


def panels_size(c: Shape, N: int, S: int, W: int) -> int:
    """Numbers, or words, that the operands of products take: of N positions, or of a row of S."""
    widest, panel = max(c.Fs, c.Qs, c.Vs), PAIR * W
    head = 4 * (c.size + 1) * (S + 2 * W) + panel * (max(S, QUERIES) + W)
    linear = (N + 2) * (widest + c.Fs) + panel * (widest + W) + 2 * NEAR
    return max(linear, int(lay_out(c, 0, 0, N, N, S, W).head_panels) + head)
