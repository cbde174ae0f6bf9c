"""Weights in int8, as products of a decoding engine read them: a quarter of float32's bytes. Legend: layout.py.

A matrix (in, out) lies in panels, see matmul.py. Behind the last row of a panel stand the float32 scales of its
columns, which take the bytes of SCALE_ROWS more rows. A product converts the int8s to float32 as it reads them, sums
in float32, and multiplies each sum by its column's scale. state.py fills the panels.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from microgpt.engines.fused.jit.functions import builder
from microgpt.engines.fused.layout import SCALE_ROWS
from microgpt.engines.fused.simd.intrinsics import INT, Vector


@builder
def panel_rows(typing: Any, w: Any, K: Any) -> Any:
    """Rows that a panel of K rows takes in memory."""
    more = SCALE_ROWS if w.dtype == types.int8 else 0
    return types.intp(w, types.intp), lambda context, b, sig, args: b.add(args[1], INT(more))


@builder
def begin(typing: Any, w: Any, like: Any, at: Any) -> Any:
    """Where the matrix begins that is at `at` in the flat vector of numbers `like`; see state.arranged."""
    lanes = Vector(like.dtype).lanes

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        scales = b.mul(b.sdiv(args[2], INT(lanes)), INT(SCALE_ROWS))
        return b.gep(args[0], [b.add(args[2], scales) if w.dtype == types.int8 else args[2]])

    return w(w, like, types.intp), emit
