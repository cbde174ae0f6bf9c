"""The products of a training step against the core's peak: y = x W^T, dx = dy W and dW = dy^T x of every shape.

    python -m benchmarks.products

Each runs as in a step of the fused engine by this machine's plan, with its transpositions and copies, for one layer
after the other: what the function before has just written or prefetched is in the nearest caches, weights, their
gradients and what each layer keeps are not, since those of all other layers and shapes lie between two uses. The peak
is measured between the products; each share is one of its own turn, and the best turn counts. A model's last row weighs
all products of a step by their operations. The same with AVX2 alone in another process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks import peak
from benchmarks.__main__ import run
from benchmarks.common import Options, Row, script
from benchmarks.medium import WORKS, tuned
from benchmarks.targets import SLACK, avx2
from benchmarks.work import Work, sized, synthetic
from microgpt.engines.common.hardware import cpu
from microgpt.engines.fused import Engine, layout
from microgpt.engines.fused.state import at, empty
from microgpt.errors import MachineError, UsageError

TARGET = 85.0  # per cent of the peak, for all products of a step together
TURNS = 8  # at least; the first warms up
PEAK_ROUNDS = 300_000  # a fraction of a millisecond
BLOCK = 2 * 16 * 16  # numbers behind an array, since blocks of vectors are read and written whole
FORWARD, INPUT, WEIGHT, ALL = "y = x W^T", "dx = dy W", "dW = dy^T x", "all products of a step"


@dataclass(frozen=True)
class Product:
    """A call that computes one product for every layer that has it, or for as many, and how often a step makes it."""

    name: str
    operations: float  # of the call
    times: float
    call: Callable[[], int]


def products(work: Work, rows: int, numbers: Callable[[int], int]) -> list[Product]:
    """All products of a step of full rows, on arrays of so many `numbers`. Raises MachineError."""
    from benchmarks.product_kernels import compiled

    engine = Engine(work.model, work.optim, dtype="float32", threads=1)
    kernels, c, plan, W = compiled(), engine.shape, engine.sizes, engine.lanes
    T, D, L = work.model.block_size, c.Dp, work.model.n_layer
    N = T * max(1, min(rows, engine.columns // T))  # positions of a micro-batch
    later = max(0.0, rows * T / N - 1)  # micro-batches behind a step's first
    by_rows = plan.long <= T and plan.deep >= 2 * T * D  # see train.all_long
    room = numbers(layout.panels_size(c, plan, N, engine.block, W))
    first, others = list[Product](), list[Product]()  # of a product's calls
    for name, fan_in, fan_out, layers in (
        ("queries, keys, values", D, 3 * D, L),
        ("attention's output", D, D, L),
        ("MLP's first", D, c.Fp, L),
        ("MLP's second", c.Fp, D, L),
        ("logits", D, c.Vp, 1),
    ):
        x, y = (numbers(L * N * layout.stride(width, W)) for width in (fan_in, fan_out))
        dx, dy = (numbers(N * layout.stride(width, W)) for width in (fan_in, fan_out))
        w, wt, dw = (numbers((L + 1) * fan_in * fan_out) for _ in range(3))
        sides, adding = (fan_in, fan_out, N), fan_out == D and layers == L  # to the residual stream
        calls: list[tuple[str, float, Callable[..., int], tuple[int, ...]]]
        if by_rows and fan_out == 3 * D:
            calls = [(FORWARD, 1 + later, kernels.forward_by_rows, (x, w, y, *sides, T))]
        else:
            calls = [
                (FORWARD, 1.0, kernels.forward, (x, w, wt, y, *sides, False, later > 0, adding, fan_out == c.Fp)),
                (FORWARD, later, kernels.forward, (x, w, wt, y, *sides, True, True, adding, fan_out == c.Fp)),
            ]
        calls += [
            (INPUT, 1 + later, kernels.input_gradient, (x, w, dy, dx, *sides)),
            (WEIGHT, 1.0, kernels.weight_gradient, (x, dy, dw, *sides, False)),
            (WEIGHT, later, kernels.weight_gradient, (x, dy, dw, *sides, True)),
        ]
        for kind, times, kernel, given in calls:
            words, operations = f"{kind}, {name} {fan_in} x {fan_out}", 2.0 * L * N * fan_in * fan_out
            if times:
                call = partial(kernel, *plan, L, *given, room)
                among = others if first and first[-1].name == words else first
                among.append(Product(words, operations, times * layers / L, call))
    return sorted(first, key=_kind) + sorted(others, key=_kind)  # those of the same operands far from one another


def _kind(product: Product) -> int:
    return [product.name.startswith(kind) for kind in (FORWARD, INPUT, WEIGHT)].index(True)


def shares(asked: Sequence[Product], seconds: float, turns: int) -> tuple[list[float], float]:
    """Each product's part of the peak that the core had in the same turn, the best of the turns; and the best peak."""
    best, highest, end, turn = [0.0] * len(asked), 0.0, time.perf_counter() + seconds, 0
    while turn <= turns or time.perf_counter() < end:
        rates, reached = [], []
        for product in asked:
            rates.append(peak.rate(PEAK_ROUNDS))
            start = time.perf_counter()
            product.call()
            reached.append(product.operations / (time.perf_counter() - start))
        if turn:  # the first warms up
            best = [max(known, found / max(rates)) for known, found in zip(best, reached, strict=True)]
            highest = max(highest, *rates)
        turn += 1
    return best, highest


def rows_of(name: str, work: Work, rows: int, options: Options) -> list[Row]:
    """A row per product and one of all together."""
    if not options.quick:
        tuned(work, options)
    arrays, rng = list[np.ndarray](), np.random.default_rng(1)

    def numbers(size: int) -> int:
        arrays.append(empty(size + BLOCK, "float32"))
        arrays[-1][:] = rng.standard_normal(size + BLOCK, np.float32)
        return at(arrays[-1])

    asked = products(work, rows, numbers)
    found, highest = shares(asked, options.seconds, 1 if options.quick else TURNS)
    spent = {product.name: [0.0, 0.0] for product in asked} | {ALL: [0.0, 0.0]}  # operations, and the peak's meanwhile
    for product, share in zip(asked, found, strict=True):
        for sums in (spent[product.name], spent[ALL]):
            sums[0] += product.times * product.operations
            sums[1] += product.times * product.operations / share
    row = Row("", "float32 peak of the core", "GFLOP/s", theirs=highest / 1e9, scale="%", slack=SLACK)
    filled = [
        replace(row, work=f"{name}, {key}", ours=highest / 1e9 * done / able, value=100 * done / able)
        for key, (done, able) in spent.items()
    ]
    return [replace(r, target=TARGET) if r.work.endswith(ALL) else r for r in filled]


def family(options: Options) -> list[Row]:
    """The rows; those with AVX2 alone where the CPU has wider vectors."""
    found = list[Row]()
    for name, model, count, *_ in WORKS:
        count = min(count, 2) if options.quick else count
        work = synthetic(sized(model, options), rows=count, steps=1)
        name = name.removesuffix(" per step, float32")
        try:
            found += rows_of(name, work, count, options)
        except (MachineError, UsageError) as error:
            found.append(Row(f"{name}, {ALL}", "-", "-", target=TARGET, note=f"no engine: {error}"))
    narrow = avx2() if cpu()["vector_bits"] > 256 and not options.quick else None
    done = run("products", ["--seconds", str(options.seconds)], narrow) if narrow else None
    return found + [replace(row, work=f"AVX2 alone, {row.work}") for row in (done[1] if done else [])]


if __name__ == "__main__":
    script(family, __doc__)
