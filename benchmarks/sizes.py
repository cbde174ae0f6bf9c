"""Time per token over the size of the model, 1e3 to 1e8 parameters, for every engine that is here, on one core.

    python -m benchmarks.sizes --plot sizes.png

Each point trains rows of one block in float32 where the engine has it. The physical limit is drawn in: 6 operations
a parameter and token at the core's measured peak; and with it what Adam must move through memory once a step (28 bytes
a parameter: gradient, weight and two moments read, three written), at the measured speed of the cache that holds it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import peak
from benchmarks.common import Options, Row, arguments, chosen, describe, machine, number, pin, say
from benchmarks.race import Ours
from benchmarks.work import synthetic
from microgpt.config import Model
from microgpt.engines.ladder import LADDER
from microgpt.errors import MachineError, UsageError
from microgpt.model import n_params

# layers, width, heads, block, rows per step: larger models are trained on more tokens per step
SHAPES = [
    (1, 8, 2, 16, 1),
    (1, 16, 4, 16, 1),
    (2, 32, 4, 64, 1),
    (4, 64, 4, 128, 1),
    (6, 128, 8, 128, 1),
    (6, 256, 8, 128, 4),
    (6, 384, 6, 256, 4),
    (8, 640, 10, 256, 4),
    (14, 768, 12, 256, 4),
]
ADAM_BYTES = 28  # moved per parameter and step
STATE_BYTES = 16  # kept per parameter: weight, gradient and two moments, which decide the cache that they fit in


def model_of(shape: tuple[int, int, int, int, int]) -> Model:
    """A model with 65 characters of vocabulary."""
    layers, width, heads, block, _ = shape
    return Model(vocab_size=65, n_layer=layers, n_embd=width, n_head=heads, block_size=block)


def limit(shape: tuple[int, int, int, int, int]) -> tuple[float, float]:
    """Microseconds per token that arithmetic alone takes, and arithmetic with Adam's traffic."""
    n, tokens = n_params(model_of(shape)), shape[3] * shape[4]
    compute = 6 * n / peak.measured()
    traffic = ADAM_BYTES * n / peak.bandwidth(min(STATE_BYTES * n, 1 << 28)) / tokens
    return 1e6 * compute, 1e6 * (compute + traffic)


def point(name: str, shape: tuple[int, int, int, int, int], options: Options) -> dict[str, Any] | None:
    """One engine on one model within about `seconds`; None where it would take longer, or cannot do it."""
    seconds, clock = options.seconds, time.process_time if options.cpu_time else time.perf_counter
    model, rung, tokens = model_of(shape), LADDER[name], shape[3] * shape[4]
    n = n_params(model)
    dtype = "float32" if "float32" in rung.dtypes else rung.dtypes[0]
    estimate = rung.overhead + 6 * n * tokens / rung.flops
    if estimate > seconds:
        return None
    steps = max(1, min(200, int(0.02 / max(estimate, 1e-6))))  # in one call, as the trainer does
    try:
        side = Ours(synthetic(model, shape[4], steps), name, dtype)
    except (MachineError, UsageError) as error:
        say(f"  {name}: {error}")
        return None
    start = time.perf_counter()
    times: list[float] = []
    while not times or (time.perf_counter() - start < seconds and len(times) < 50):
        side.reset()
        if not times and estimate < seconds / 2:
            side.train()  # compiles, and touches its memory for the first time
            side.reset()
        begin = clock()
        side.train()
        times.append(clock() - begin)
    us = 1e6 * min(times) / (tokens * steps)
    say(f"  {name:12} {n:12,} parameters  {us:14.3f} µs per token")
    return {"engine": name, "dtype": dtype, "n_params": n, "tokens_per_step": tokens, "us_per_token": us}


def measure(options: Options) -> list[dict[str, Any]]:
    """All points; an engine stops at the first size that is too slow for the budget."""
    found = []
    names = list(LADDER) if options.engine == "auto" else [options.engine]
    for name in names:
        for shape in SHAPES[:2] if options.quick else SHAPES:
            got = point(name, shape, options)
            if got is None:
                break
            found.append(got)
    return found


def family(options: Options) -> list[Row]:
    """The fastest engine at each size, for the table."""
    return summary(measure(options))


def summary(points: list[dict[str, Any]]) -> list[Row]:
    """The fastest engine at each size against the limit."""
    rows = []
    for shape in SHAPES:
        n, (floor, _) = n_params(model_of(shape)), limit(shape)
        if here := [p for p in points if p["n_params"] == n]:
            best = min(here, key=lambda p: p["us_per_token"])
            us = best["us_per_token"]
            work, note = f"time per token, {number(n)} parameters", f"{best['engine']} {best['dtype']}"
            rows.append(Row(work, "6 N / peak", "µs/token", us, floor, us / floor, "<=", note=note))
    return rows


def draw(points: list[dict[str, Any]], path: Path, where: dict[str, Any]) -> None:
    """The picture, as PNG or SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    for name in dict.fromkeys(p["engine"] for p in points):
        own = [p for p in points if p["engine"] == name]
        x, y = ([p[key] for p in own] for key in ("n_params", "us_per_token"))
        axes.plot(x, y, marker="o", markersize=4, label=f"{name} ({own[0]['dtype']})")
    sizes = [n_params(model_of(shape)) for shape in SHAPES]
    floors = [limit(shape) for shape in SHAPES]
    axes.plot(sizes, [f[0] for f in floors], "k-", linewidth=1, label="limit: 6 N / peak of the core")
    axes.plot(sizes, [f[1] for f in floors], "k:", linewidth=1, label="limit with Adam's memory traffic")
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="microseconds per token, training")
    axes.set_title("Time per token over the size of the model, one core", loc="left")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 0.01, f"{where['cpu']}, commit {where['commit']}, {where['date']}", fontsize=6, color="#555753")
    figure.savefig(path, bbox_inches="tight", dpi=150)
    pyplot.close(figure)


def main() -> None:
    """Measure, draw, print."""
    parser = arguments(__doc__)
    parser.set_defaults(seconds=8.0)
    parser.add_argument("--plot", type=Path, help="draw the points into this PNG or SVG file")
    args = parser.parse_args()
    pin()
    where = machine()
    points = measure(chosen(args))
    if args.plot:
        draw(points, args.plot, where)
    if args.json:
        print(json.dumps({"machine": where, "points": points}))
        return
    print(describe(where))
    print(f"{'engine':12} {'dtype':8} {'parameters':>12} {'µs per token':>12} {'of the limit':>12}")
    floors = {n_params(model_of(shape)): limit(shape)[0] for shape in SHAPES}
    for p in points:
        share = f"{100 * floors[p['n_params']] / p['us_per_token']:.2g} %"
        print(f"{p['engine']:12} {p['dtype']:8} {p['n_params']:12,} {p['us_per_token']:12.3f} {share:>12}")


if __name__ == "__main__":
    main()
