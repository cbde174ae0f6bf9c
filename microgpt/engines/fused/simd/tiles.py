"""Tiles: products and transposes of blocks that fit into the registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from microgpt.engines.fused.jit.functions import builder
from microgpt.engines.fused.plan import PAIR, tile_rows
from microgpt.engines.fused.simd.intrinsics import (
    BYTES,
    I8,
    I16,
    I32,
    INT,
    Vector,
    multiply_add,
    multiply_add_integers,
    multiply_add_pairs,
    prefetch,
    read,
    shuffle,
    spread,
    write,
)

ROWS = tile_rows(BYTES)  # of a full tile
WIDE = 8  # vectors of a tile of one row


def _tile(
    b: ir.IRBuilder, kind: ir.VectorType, rows: int, vecs: int, places: Any, K: ir.Value, add: ir.Value, route: Any
) -> None:
    """One tile: rows x vecs accumulators in registers, a loop over k that broadcasts a and loads w."""
    sums, stored, sum_of, int8 = kind, kind, multiply_add, places[3].type.pointee == I16
    if int8:
        sums, stored, sum_of = ir.VectorType(I32, kind.count), ir.VectorType(I8, 2 * kind.count), multiply_add_integers
    elif isinstance(places[0].type.pointee, ir.IntType):
        sum_of = multiply_add_pairs
    a, down, along, w, ldw, next_w, c, ldc, next_c = places
    cells = [(m, j) for m in range(rows) for j in range(vecs)]
    a_rows = [b.gep(a, [b.mul(down, INT(m))]) for m in range(rows)]
    c_rows = [b.gep(c, [b.mul(ldc, INT(m))]) for m in range(rows)]
    w_at, c_at = (
        [b.add(b.mul(step, INT(j // PAIR)), INT(j % PAIR * kind.count)) for j in range(vecs)]
        for step in (next_w, next_c)
    )
    with b.if_then(add):  # C is prefetched while the sums are computed
        for m, j in cells:
            prefetch(b, c_rows[m], c_at[j], writing=True)
    begin, loop, done = b.block, b.append_basic_block("k"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(INT)
    acc = {cell: b.phi(sums) for cell in cells}
    if route:
        at, step, left, run, skip = route
        spot, rest = b.phi(at.type), b.phi(INT)
        prefetch(b, spot, INT(0), writing=False)
        fewer = b.sub(rest, INT(1))
        over = b.icmp_signed("==", fewer, INT(0))
        for value, first, later in (
            (spot, at, b.gep(spot, [b.select(over, skip, step)])),
            (rest, left, b.select(over, run, fewer)),
        ):
            value.add_incoming(first, begin)
            value.add_incoming(later, loop)
    w_row, a_k = b.gep(w, [b.mul(k, ldw)]), b.mul(k, along)
    ws = [read(b, w_row, w_at[j], stored) for j in range(vecs)]
    end = {}
    for m in range(rows):
        number = b.load(b.gep(a_rows[m], [a_k]))
        value = spread(b, b.bitcast(number, sums.element), sums)
        for j in range(vecs):
            end[m, j] = sum_of(b, value, ws[j], acc[m, j])
    k_next = b.add(k, INT(1))
    k.add_incoming(INT(0), begin)
    k.add_incoming(k_next, loop)
    for cell in cells:
        acc[cell].add_incoming(ir.Constant(sums, None), begin)
        acc[cell].add_incoming(end[cell], loop)
    b.cbranch(b.icmp_signed("<", k_next, K), loop, done)
    b.position_at_end(done)
    if int8:  # the columns' scales follow the last row, four bytes each where a row has two
        behind = b.gep(w, [b.mul(K, ldw)])
        scales = [read(b, behind, b.add(w_at[j], INT(j % PAIR * kind.count)), kind) for j in range(vecs)]
        for m in range(rows):
            place = b.bitcast(b.gep(a_rows[m], [b.mul(K, along)]), kind.element.as_pointer())
            scale = spread(b, b.load(place), kind)
            for j in range(vecs):
                end[m, j] = b.fmul(b.fmul(b.sitofp(end[m, j], kind), scales[j]), scale)
    with b.if_else(add) as (adding, setting):
        with adding:
            for m, j in cells:
                write(b, b.fadd(read(b, c_rows[m], c_at[j], kind), end[m, j]), c_rows[m], c_at[j])
        with setting:
            for m, j in cells:
                write(b, end[m, j], c_rows[m], c_at[j])


@builder
def tile(
    typing: Any, a: Any, down: Any, along: Any, w: Any, ldw: Any, next_w: Any, c: Any, ldc: Any, next_c: Any,
    rows: Any, K: Any, vecs: Any, add: Any, route: Any,
) -> Any:  # fmt: skip
    """C = A W for a tile of C: (rows, vecs whole vectors); C += A W where `add`. K is at least 1.

    `down` and `along` are the steps from one number of A to the next in its row's and column's number, so that A may
    lie either way; ld*: from one row to the next; next_*: from one pair of vectors in a row to the next. `rows`, if
    fewer than ROWS, may be known only at run time; vecs is literal. A and W may be pairs of bfloat16s: bfloat16.py.
    W may be pairs of int8s in panels, and A of int16s, both with their scales: int8.py.

    With a `route` (at, step, left, run, skip), not None, each of the K iterations prefetches a cache line of something
    else: first that of at[0], then the one `step` numbers further on; but after `left` iterations, and from then on
    every `run`, the one `skip` numbers further on.
    """
    if not isinstance(vecs, types.IntegerLiteral):
        return None
    kind, width = Vector(c.dtype), vecs.literal_value
    fixed = rows.literal_value if isinstance(rows, types.IntegerLiteral) else None

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        places, K, add = tuple(args[:9]), args[10], args[12]
        way = [] if isinstance(route, types.NoneType) else [b.extract_value(args[13], i) for i in range(len(route))]
        if fixed is not None:
            _tile(b, kind.ir, fixed, width, places, K, add, way)
            return context.get_dummy_value()
        after = b.append_basic_block("after")
        switch = b.switch(args[9], after)
        for m in range(1, ROWS):
            block = b.append_basic_block(f"rows{m}")
            switch.add_case(INT(m), block)
            b.position_at_end(block)
            _tile(b, kind.ir, m, width, places, K, add, way)
            b.branch(after)
        b.position_at_end(after)
        return context.get_dummy_value()

    index = types.intp
    where = (a, index, index, w, index, index, c, index, index)
    return types.void(*where, rows if fixed is not None else index, index, vecs, types.boolean, route), emit


@builder
def transpose_block(typing: Any, x: Any, ldx: Any, y: Any, ldy: Any, rows: Any) -> Any:
    """The first `rows` rows of the transpose of a square block, as large as a vector: y[i, j] = x[j, i]."""
    kind = Vector(x.dtype)
    n = kind.lanes

    def emit(context: Any, b: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, ldx, y, ldy, rows = args
        v = [read(b, x, b.mul(ldx, INT(i)), kind.ir) for i in range(n)]
        step = 1
        while step < n:  # exchange the off-diagonal halves of every 2 step x 2 step block
            low = [j if not j & step else n + j - step for j in range(n)]
            high = [j + step if not j & step else n + j for j in range(n)]
            for i in range(n):
                if not i & step:
                    v[i], v[i + step] = (shuffle(b, v[i], v[i + step], half) for half in (low, high))
            step *= 2
        for i in range(n):
            with b.if_then(b.icmp_signed("<", INT(i), rows)):
                write(b, v[i], y, b.mul(ldy, INT(i)))
        return context.get_dummy_value()

    index = types.intp
    return types.void(x, index, y, index, index), emit
