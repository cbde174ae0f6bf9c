"""The products of a step as compiled functions of their own, each for several layers, whose weights are adjacent.

Activations are the same for all layers where a step finds them in the nearest caches: the function before has written
or prefetched them. All are compiled as kernels are, from the functions that a step calls. Legend:
microgpt/engines/fused/layout.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, cast

from microgpt.engines.fused.adam import settled
from microgpt.engines.fused.jit.code import Code
from microgpt.engines.fused.jit.compiler import compile_kernels
from microgpt.engines.fused.layout import Matrix, P
from microgpt.engines.fused.linear import input_back, linear, project, weights_back
from microgpt.engines.fused.plan import Plan
from microgpt.engines.fused.simd.matmul import stride
from microgpt.engines.fused.simd.vectors import lanes
from microgpt.errors import MachineError
from microgpt.progress import no_progress


def forward(
    plan: Plan, layers: int, x: P, w: P, wt: P, y: P, fan_in: int, fan_out: int, N: int, transposed: bool, keep: bool,
    adding: bool, traced: bool, workspace: P,
) -> int:  # fmt: skip
    """y = x W^T, or added to y, which is `traced` if every layer keeps its own; see linear."""
    k = settled(w, wt, transposed, keep)
    for i in range(layers):
        at = i * fan_in * fan_out
        ys = y + i * N * stride(fan_out, lanes(w)) if traced else y
        then = Matrix(at + fan_in * fan_out, fan_in, fan_out)
        linear(plan, x, k, Matrix(at, fan_in, fan_out), then, ys, N, adding, workspace)
    return 0


def forward_by_rows(
    plan: Plan, layers: int, x: P, w: P, y: P, fan_in: int, fan_out: int, N: int, T: int, workspace: P
) -> int:
    """y = W x^T of each row of T positions; see project."""
    k = settled(w, w, False, False)
    for i in range(layers):
        at = i * fan_in * fan_out
        then = Matrix(at + fan_in * fan_out, fan_in, fan_out)
        for n in range(0, N, max(1, T)):
            xs, ys = x + n * stride(fan_in, lanes(w)), y + (i * N + n) * stride(fan_out, lanes(w))
            project(plan, xs, k, Matrix(at, fan_in, fan_out), then, ys, T, T, n > 0, n + T < N, workspace)
    return 0


def input_gradient(
    plan: Plan, layers: int, x: P, w: P, dy: P, dx: P, fan_in: int, fan_out: int, N: int, workspace: P
) -> int:
    """dx = dy W; x is only prefetched."""
    for i in range(layers):
        xs = x + i * N * stride(fan_in, lanes(w))
        input_back(plan, dy, w + i * fan_in * fan_out, dx, N, fan_in, fan_out, xs, workspace)
    return 0


def weight_gradient(
    plan: Plan, layers: int, x: P, dy: P, dw: P, fan_in: int, fan_out: int, N: int, adding: bool, workspace: P
) -> int:
    """dW = dy^T x, or added to dW."""
    for i in range(layers):
        weights_back(plan, dy, x, dw + i * fan_in * fan_out, N, fan_in, fan_out, adding, workspace)
    return 0


class Products(NamedTuple):
    """The compiled functions; their arguments are those of the functions of these names."""

    forward: Any = None
    forward_by_rows: Any = None
    input_gradient: Any = None
    weight_gradient: Any = None


@lru_cache(maxsize=1)
def compiled() -> Products:
    """The functions for float32. Raises MachineError where this Numba lacks what that takes; see jit/functions.py."""
    code = compile_kernels((forward, forward_by_rows, input_gradient, weight_gradient), "float32", no_progress)
    if not isinstance(code, Code):
        raise MachineError("Numba's private interface is another than expected")
    return cast("Products", code.load(cast("Any", Products())))
