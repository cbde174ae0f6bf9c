"""The plan: any one computes the same within rounding, a fixed one the same bits, and a run repeats its own."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from microgpt.config import Config, Model, Optim
from microgpt.engines.fused import tuning, widths
from microgpt.engines.fused.jit import cache
from microgpt.engines.fused.plan import reckoned
from microgpt.engines.ladder import engine
from microgpt.errors import UsageError
from microgpt.feed import pack
from microgpt.model import init_weights
from microgpt.training.train import train

MODEL = Model(vocab_size=50, block_size=40, n_layer=2, n_head=4, n_embd=96, position="rope")
FEED = pack(
    [[Random(i).randrange(50) for _ in range(n)] for i, n in enumerate((21, 41, 2, 41, 33, 17))], rows_per_step=3
)
EXTREMES = (
    {"near": 1, "deep": 1, "positions": 1, "depth": 1, "pack": 1, "long": 1, "max_deferred": 0},
    {"near": 1 << 20, "deep": 1 << 20, "positions": 1 << 16, "pack": 1 << 20, "long": 1 << 20, "prefetch": 0},
    {"near": 600, "deep": 9000, "positions": 40, "depth": 7, "pack": 64, "long": 20},
)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_every_plan_trains_the_same_within_rounding(dtype: str) -> None:
    rtol = {"float32": 2e-5, "float64": 1e-12, "bfloat16": 3e-3}[dtype]
    found = []
    for plan in ({}, *EXTREMES):
        e = engine("fused")(MODEL, Optim(clip_norm=0.5), dtype=dtype, threads=1, plan=plan)
        runs = [e.train(e.load(init_weights(MODEL, Random(1))), FEED, np.full(2, 0.01)) for _ in range(2)]
        weights, again = (np.concatenate([x.ravel() for x in e.dump(state).values()]) for state, _ in runs)
        np.testing.assert_array_equal(weights, again)
        found.append(runs[0][1])
    for losses in found:
        np.testing.assert_allclose(losses, found[0], rtol=rtol)


def test_a_plan_that_no_machine_has_is_refused() -> None:
    plan = reckoned(4, 64)
    for given in ({"speed": 1}, {"near": 0}, {"depth": -1}, {"positions": 1 << 40}):
        with pytest.raises(UsageError, match=r"run\.toml: plan\."):
            plan.with_fields(given)
    assert plan.with_fields({"rows": 3, "near": 5}) == plan._replace(near=5)


def test_a_run_records_its_plan_and_repeats_it(tmp_path: Path, given_names: Path) -> None:
    """With the plan of another machine in run.toml, whose sums have another order; resumed, too."""
    given = {"data": {"path": str(given_names)}, "run": {"steps": 20, "engine": "fused", "samples": 0}}
    config = Config.of("names", **given)
    train(config, tmp_path / "own")
    own = Config.from_toml(tmp_path / "own" / "run.toml")
    assert own.plan == engine("fused").plan(own.model, own.run.dtype)
    other = own.model_copy(update={"plan": {**own.plan, "depth": 1, "positions": 16}})
    train(other, tmp_path / "whole")
    train(other, tmp_path / "parts", stop_at=9)
    train(Config.from_toml(tmp_path / "parts" / "run.toml"), tmp_path / "parts", resume=True)
    assert Config.from_toml(tmp_path / "parts" / "run.toml").plan == other.plan
    names = [tmp_path / run / "checkpoints" / "step-00000020" / "model.safetensors" for run in ("whole", "parts")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_measured_plans_are_kept_for_this_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.load("float32", False)  # from the usual folder
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    large, small = MODEL.model_copy(update={"n_embd": 256}), Model(vocab_size=27)
    asked: list[int] = []

    def search(cls: object, dtype: str, model: Model, rows: int, end: float, first: object) -> dict[str, int]:
        asked.append(model.n_embd)
        return {"positions": model.n_embd}

    monkeypatch.setattr(tuning, "_search", search)
    monkeypatch.setattr(tuning, "narrower", lambda dtype: {})
    tuning.measure(engine("fused"), "float32", small)
    assert not asked  # it stays in the nearest caches
    for _ in range(2):
        tuning.measure(engine("fused"), "float32", large)
    assert asked == list(tuning.MODELS)
    assert tuning.kept("float32", large, 64).positions == 384
    assert tuning.kept("float32", small, 64) == tuning.kept("float64", large, 64)._replace(
        near=reckoned(4, 64).near, deep=reckoned(4, 64).deep
    )
    tuning.path().write_text("{}")
    assert tuning.kept("float32", large, 64) == reckoned(4, 64)


def test_narrower_vectors_are_taken_where_they_gain_in_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widths, "cpu", lambda: {"vector_bits": 512, "bfloat16": True})
    for narrow, found in (((111, 112, 113), {"vector": 32}), ((111, 109, 113), {}), ((111, 112), {})):
        monkeypatch.setattr(widths, "rates", lambda narrow=narrow: [(100.0, float(rate)) for rate in narrow])
        assert widths.narrower("float32") == found
    monkeypatch.setattr(widths, "rates", lambda: [(1.0, 2.0)] * widths.TURNS)
    assert widths.narrower("float64") == {"vector": 32}
    assert not widths.narrower("bfloat16")  # whose instruction only the wide ones have
    monkeypatch.setattr(widths, "cpu", lambda: {"vector_bits": 256, "bfloat16": False})
    assert not widths.narrower("float32")


def test_the_loop_that_widths_are_measured_with_multiplies_and_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    for lanes in (8, 16):
        run, _owner = widths._loop(lanes)
        assert run(1, 0.5) == 0.5 + sum((k + 1) / 2 for k in range(widths.SUMS))
        assert run(60, 0.5) == widths.SUMS + 1
    monkeypatch.setattr(widths, "ROUNDS", 100)
    monkeypatch.setattr(widths, "LIMIT", 1e9)
    assert [len(turn) for turn in widths.rates() if min(turn) > 0] == [2] * widths.TURNS


def test_a_measured_width_is_kept_recorded_and_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a CPU that has both; what was recorded before widths were measured has the widest."""
    kernels = cache.load("float32", False)  # from the usual folder
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(widths, "cpu", lambda: {"vector_bits": 512, "bfloat16": False})
    large, fused = MODEL.model_copy(update={"n_embd": 256}), engine("fused")

    def both(dtype: str, narrow: bool) -> Any:
        return kernels._replace(vector=32 if narrow else 64)

    def width(plan: dict[str, int]) -> int:
        e: Any = fused(large, Optim(), plan=plan)
        assert e.sizes.vector == e.kernels.vector
        return e.sizes.vector

    monkeypatch.setattr(cache, "load", both)
    before = fused.plan(large, "float32")
    monkeypatch.setattr(tuning, "narrower", lambda dtype: {"vector": 32})
    monkeypatch.setattr(tuning, "_search", lambda *asked: dict(asked[-1]))
    tuning.measure(fused, "float32", large)
    after = fused.plan(large, "float32")
    assert (before["vector"], after["vector"]) == (64, 32)
    assert (before["rows"], after["rows"]) == (reckoned(4, 64).rows, reckoned(4, 32).rows)
    old = {name: value for name, value in before.items() if name != "vector"}
    assert [width(plan) for plan in (before, old, after, {})] == [64, 64, 32, 32]
    assert fused.plan(Model(vocab_size=27), "float32")["vector"] == 64  # too small to be measured
    monkeypatch.setattr(widths, "cpu", lambda: {"vector_bits": 256, "bfloat16": False})
    assert not widths.are_narrow(after)  # they are its widest
    monkeypatch.undo()
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    tuning.path().write_text('{"origin": 1}')
    assert fused.plan(large, "float32")["vector"] == kernels.vector
