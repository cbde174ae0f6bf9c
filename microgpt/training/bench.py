"""Measure how fast an engine trains a model, and how near its losses are to the definition's."""

from __future__ import annotations

import ast
import importlib.util
import io
import resource
import sys
import time
import tokenize
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from microgpt.config import Config
from microgpt.engines.ladder import LADDER
from microgpt.errors import MachineError, UsageError
from microgpt.feed import Feed, pack
from microgpt.model import flops_per_token, init_weights, n_params
from microgpt.optim import learning_rates
from microgpt.training.prepare import RunSetup, prepare

REPEATS = 3  # whole runs, of which the fastest counts


@dataclass(frozen=True)
class Measured:
    """The measurement of one engine on one model."""

    engine: str
    dtype: str
    threads: int
    n_params: int
    steps: int
    us_per_step: float  # microseconds
    tokens_per_s: float
    gflops: float  # 6 · parameters · tokens/s, in 1e9 per second
    compile_s: float  # time of the first call beyond that of a later one
    peak_rss_mb: float
    loss_last50: float
    losses: list[float]


def measure(setup: RunSetup, feed: Feed, repeats: int = REPEATS) -> Measured:
    """Train the feed's steps from initialized weights, `repeats` times after a call that compiles."""
    config, choice = setup.config, setup.choice
    rng = Random()
    rng.setstate(setup.rng.getstate())
    tensors = init_weights(config.model, rng)
    lrs = learning_rates(config.optim, 0, feed.n_steps, max(config.run.steps, feed.n_steps))

    start = time.perf_counter()
    engine = choice.build(config.model, config.optim, threads=config.run.threads)
    one = feed.part(0, 1)
    engine.train(engine.load(tensors), one, lrs[:1])
    cold = time.perf_counter() - start
    start = time.perf_counter()
    engine.train(engine.load(tensors), one, lrs[:1])
    warm = time.perf_counter() - start

    best, losses = float("inf"), np.zeros(0)
    for _ in range(repeats):
        state = engine.load(tensors)
        start = time.perf_counter()
        _, losses = engine.train(state, feed, lrs)
        best = min(best, time.perf_counter() - start)
    tokens_per_s = feed.n_targets / best
    return Measured(
        engine=choice.name,
        dtype=choice.dtype,
        threads=config.run.threads,
        n_params=n_params(config.model),
        steps=feed.n_steps,
        us_per_step=1e6 * best / feed.n_steps,
        tokens_per_s=tokens_per_s,
        gflops=flops_per_token(config.model) * tokens_per_s / 1e9,
        compile_s=max(0.0, cold - warm),
        peak_rss_mb=peak_rss_mb(),
        loss_last50=float(losses[-50:].mean()),
        losses=losses.tolist(),
    )


def peak_rss_mb() -> float:
    """The peak memory of this process in MB of 2**20 bytes.

    Linux keeps ru_maxrss over fork and exec, so a child would callbacks its parent's; VmHWM is the process's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def feed_of(setup: RunSetup, steps: int, full_context: bool) -> Feed:
    """The first steps of a run: its documents in order, or rows of whole contexts from consecutive text."""
    if not full_context:
        return setup.feed(0, steps)
    block, run = setup.config.model.block_size, setup.config.run
    at = np.arange(steps * setup.rows_per_step)[:, None] * block + np.arange(block + 1)
    rows = setup.corpus.tokens[at % len(setup.corpus.tokens)]
    return pack(rows.tolist(), rows_per_step=setup.rows_per_step, micro_batch_size=run.batch_size, seed=run.seed)


def ladder(config: Config, budget: float = 4.0) -> list[Measured]:
    """The same model on every installed engine, in float64 and float32, for about `budget` seconds each.

    The slowest engine comes first; the others run at least its steps, so that losses can be compared.
    """
    found: list[Measured] = []
    for name, info in LADDER.items():
        for dtype in sorted({"float64", "float32"} & set(info.dtypes), reverse=True):
            try:
                setup = prepare(config.replace(run={"engine": name, "dtype": dtype, "device": "cpu"}))
            except (MachineError, UsageError):
                continue
            steps = min(config.run.steps, max(10, int(budget / REPEATS / max(setup.choice.seconds_per_step, 1e-6))))
            found.append(measure(setup, feed_of(setup, steps, False)))
    return found


def ladder_rows(found: list[Measured]) -> list[dict[str, Any]]:
    """The table of a ladder: each engine compared with the first, which is the reference."""
    base = found[0]
    rows = []
    for m in found:
        common = min(len(m.losses), len(base.losses))
        ours, theirs = np.array(m.losses[:common]), np.array(base.losses[:common])
        rows.append(
            {
                **{key: value for key, value in asdict(m).items() if key != "losses"},
                "idea": LADDER[m.engine].idea,
                "lines": lines_of_code(m.engine),
                "times_faster": base.us_per_step / m.us_per_step,
                "loss_difference": float(np.abs(ours / theirs - 1).max()),
            }
        )
    return rows


def lines_of_code(engine: str) -> int:
    """Lines of an engine's file or folder that are neither blank, comment nor docstring."""
    spec = importlib.util.find_spec(f"microgpt.engines.{engine}")
    assert spec is not None
    assert spec.origin is not None
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return sum(_lines(path.read_text(encoding="utf-8")) for path in files)


def _lines(source: str) -> int:
    docs = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in ignored:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - docs)
