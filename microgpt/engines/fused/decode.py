"""The kernel for the logits of the next tokens of one sequence, or of a token each of many. Legend: layout.py."""

from __future__ import annotations

from microgpt.engines.fused import layout
from microgpt.engines.fused.adam import settled
from microgpt.engines.fused.jit.functions import inline
from microgpt.engines.fused.layout import Cache, Ints, Operands, P, Rows, Shape, Stored, Tokens
from microgpt.engines.fused.passes import forward
from microgpt.engines.fused.plan import Plan
from microgpt.engines.fused.simd.vectors import lanes

lay_out = inline(layout.lay_out)


def decode(
    c: Shape, plan: Plan, tokens: Tokens, offsets: Ints, count: int, w: P, wt: Stored, workspace: P, panels: Operands,
    S: int, cos: P, sin: P, ldr: int, keys: P, values: P, width: int, blocked: bool, starts: Ints, past: Ints,
    skip: int, logits: P,
) -> int:  # fmt: skip
    """Logits (N - skip, V) of the tokens, from number `skip` on, that follow in `count` rows; see Cache.

    The N tokens are those of one row, or one of each row; row i is tokens[offsets[i]:offsets[i + 1] - 1]. Returns N.
    """
    W, N = lanes(w), offsets[count] - count
    NT = (N + W - 1) // W * W
    t = lay_out(c, plan, workspace, panels, N, NT, 1, S, W)
    rows = Rows(tokens, offsets, 0, count, 0, False, 0, 0, False)
    ld, block = (W, c.size * W) if blocked else (width, W)
    cache = Cache(keys, values, width, ld, block, starts, past, True)
    forward(c, plan, settled(w, wt, True, False), rows, t, cache, cos, sin, ldr, N, NT, skip)
    for n in range(N - skip):
        for j in range(c.V):
            logits[n * c.V + j] = t.logits[n * c.Vs + j]
    return N
