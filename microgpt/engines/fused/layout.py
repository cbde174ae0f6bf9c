"""The memory layout: the records that kernels get, and the offsets and sizes of the arrays they work on.

Legend for all files of this engine: c Shape, t Trace, k Weights, a Matrix, u Update, d a workspace; W lanes per vector;
N positions of some rows, one row after another without padding; T positions of one row; S keys of one row; D n_embd,
F 4 n_embd, H heads, V vocabulary; ld* numbers from one row of a matrix to the next; d* a gradient.

All widths in memory are padded to whole vectors. The padding is zero and stays zero: it adds nothing to a product, a
norm or a gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from microgpt.engines.fused.plan import PAIR, Plan

# Pointers: to numbers of the engine's float type, to those or pairs of bfloat16s, to those or pairs of int8s, to int32,
# int64, float64, uint8.
P = Any
Operands = Any
Stored = Any
Tokens = Any
Ints = Any
Doubles = Any
Bytes = Any

FOUR = 4  # slots of keys, and channels of values, that are adjacent in a batch, where each lane is a sequence
QUERIES = 64  # rows of scores per block of the backward pass, a multiple of a vector
LEFT = 8  # tiles per panel of the left operand, where it is copied into panels
SCALE_ROWS = 2  # rows of pairs of int8s that the float32 scales of a panel's columns take
LINE = 16  # float64s from one thread's sums to the next, so that no two share a cache line


class Shape(NamedTuple):
    """The model in numbers: widths without and with padding, options, and the offset of each matrix."""

    D: int
    V: int
    H: int
    size: int  # channels per head
    layers: int
    Dp: int
    Fp: int
    Vp: int
    Ds: int  # stride from one position's Dp numbers to the next
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
    short: bool  # several heads fit in a vector: attention_short.py takes rows of up to W positions
    softcap: float
    dropout: float
    wte: int
    wpe: int
    wpe_size: int
    block: int  # rows of wpe
    head: int
    layer: int  # the first layer's qkv
    wo: int  # relative to `layer`
    fc1: int
    fc2: int
    step: int  # from a layer to the next
    n: int  # all weights


class Matrix(NamedTuple):
    """The offset of a matrix (out, in) in the flat vectors, and its padded widths."""

    at: int
    fan_in: int
    fan_out: int


class Rows(NamedTuple):
    """Rows low .. high of the feed, and the keys of their dropout masks."""

    tokens: P
    offsets: P
    low: int
    high: int
    first_row: int  # of the step
    dropping: bool
    seed: int
    step: int
    separate: bool  # queries, keys and values are computed row by row


class Cache(NamedTuple):
    """Keys and values of the earlier positions of each row, by layer and head; not `active`: none.

    Those of row i begin at k + starts[i] and v + starts[i], hold past[i] positions and have a place for `width`. A
    head's are (size, width), or, where every row has one token only, (width / W, size, W): a short sequence then takes
    little memory to read. `ld` is from one channel to the next, `block` from W positions to the next W.
    """

    k: P
    v: P
    width: int
    ld: int
    block: int
    starts: Ints
    past: Ints
    active: bool


class Trace(NamedTuple):
    """The forward pass's results that the backward pass reads, per layer unless noted, and a workspace.

    Without a backward pass, with a cache, all layers use the place of the first.
    """

    x: P  # the residual stream, not by layer
    x0: P  # the normed embedding, not by layer
    r0: P
    n1: P
    r1: P
    heads: P  # for each row queries, keys, values and mix (4 Dp, ld)
    rq: P  # of the norm of queries and keys (2 H, ld)
    maxima: P  # of the scores (H, ld)
    inverse: P
    pairs: P  # attention weights of rows that attention_short.py takes
    mix: P
    n2: P
    r2: P
    h: P
    y: P  # the head's input, not by layer
    r: P
    logits: P
    dlogits: P
    qkv: P  # workspace from here on
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
    panels: P  # operands of products, transposed or in pairs of bfloat16s
    head_panels: P  # operands of a head's attention, within `panels`, behind those of queries, keys and values


def stride(n: int, W: int) -> int:
    """Numbers from one row of n activations to the next: an odd number of vectors, unless there are few.

    With a large power of two, all rows would begin in the same few sets of the level 1 cache.
    """
    return n + W if n >= 16 * W and n // W % 2 == 0 else n


def place(i: int, j: int, M: int, N: int, W: int) -> int:
    """The offset of row i, column j (a whole vector) in an (M, N) matrix in panels; see simd/matmul.py."""
    within = j % (PAIR * W)
    return (j - within) * M + i * min(PAIR * W, N - j + within) + within


def lay_out(c: Shape, plan: Plan, p: P, panels: P, N: int, columns: int, L: int, S: int, W: int) -> Trace:
    """The trace, from p on, of N positions that take `columns` columns by row, with at most S keys per row.

    L is the number of layers that have a place of their own: all of them, or one.
    """
    D = c.Dp
    slack = 2 * W * W  # blocks of W x W are read and written whole
    numbers = N + W - N % W + slack  # one per position; every part begins at a whole vector
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
    maxima = rq + 2 * heads
    inverse = maxima + heads
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
    head_panels = panels + (3 * D * D + 2 * D * (S + W) + 2 * plan.near)
    return Trace(
        x, x0, r0, n1, r1, qkvy, rq, maxima, inverse, pairs, mix, n2, r2, h, y, r, z, dz, qkv, o, dx, do, dn, a, da,
        dheads, weights, ds, end, panels, head_panels,
    )  # fmt: skip


def workspace_size(c: Shape, plan: Plan, N: int, columns: int, L: int, S: int, W: int) -> int:
    """Numbers in a trace."""
    return int(lay_out(c, plan, 0, 0, N, columns, L, S, W).end)


class DecodeWorkspace(NamedTuple):
    """The workspace of the fast path of generate.py."""

    table: P  # (V, S, 4 Dp): the residual stream and layer 0's query, key, value of a token at a position
    known: P  # 1 where the table's entry is computed
    keys: P  # (layers, S, Dp), as values
    values: P
    x: P
    n: P
    mix: P
    h: P
    r: P
    p: P
    logits: P


def decode_workspace(c: Shape, p: P, known: P, S: int, W: int) -> DecodeWorkspace:
    """The workspace that begins at p."""
    D = c.Dp
    keys = p + c.V * S * 4 * D
    values = keys + c.layers * S * D
    x = values + c.layers * S * D
    n = x + D
    mix = n + 3 * D
    h = mix + D
    r = h + c.Fp
    scores = r + W
    return DecodeWorkspace(p, known, keys, values, x, n, mix, h, r, scores, scores + S * W)


def decode_workspace_size(c: Shape, S: int, W: int) -> int:
    """Numbers in a DecodeWorkspace."""
    return int(decode_workspace(c, 0, 0, S, W).logits) + c.Vp


def round_up_4(n: int) -> int:
    """n rounded up to a multiple of four."""
    return (n + FOUR - 1) // FOUR * FOUR


class BatchWorkspace(NamedTuple):
    """The workspace of a batch of n sequences, one per lane; see generate_batch.py."""

    token: P  # (n), as the next three
    at: P
    chance: P
    drawn: P
    logits: P  # (Vp, n)
    keys: P  # by layer and head; see generate_batch.mix_slots
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


def batch_workspace(c: Shape, p: P, n: int, slots: int, W: int) -> BatchWorkspace:
    """The workspace that begins at p."""
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
    return BatchWorkspace(
        p, p + n, p + 2 * n, p + 3 * n, logits, keys, values, x, y, r, qkv, in_lanes, mixed, h, z, turns, scores, end
    )


def batch_workspace_size(c: Shape, n: int, slots: int, W: int) -> int:
    """Numbers in a BatchWorkspace of n sequences."""
    return int(batch_workspace(c, 0, n, slots, W).end)


def panels_size(c: Shape, plan: Plan, N: int, S: int, W: int) -> int:
    """Numbers, or pairs of bfloat16s, of the operands of products of N positions, or of a row of S."""
    widest, panel = max(c.Fs, c.Qs, c.Vs), PAIR * W
    head = 4 * (c.size + 1) * (S + 2 * W) + panel * (max(S, QUERIES) + W)
    linear = (N + 2) * (widest + c.Fs) + panel * (widest + W) + 2 * plan.near
    gradient = plan.depth * (widest + plan.rows * LEFT)  # its operands in panels
    return max(linear, gradient, int(lay_out(c, plan, 0, 0, N, N, 1, S, W).head_panels) + head)
