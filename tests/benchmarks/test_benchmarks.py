"""The benchmarks in their smallest form: that they run, and that a race is only held over the same work."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.__main__ as every
from benchmarks import peak, race, records, sizes, targets, work
from benchmarks.apart import Failed, apart, timed
from benchmarks.common import ROOT, Options, Row, cells, markdown
from microgpt.model import n_params

QUICK = Options(quick=True, peers=False, seconds=0.01)


@pytest.mark.parametrize("name", every.FAMILIES)
def test_family_runs_without_peers(name: str) -> None:
    rows = importlib.import_module(f"benchmarks.{name}").family(QUICK)
    assert rows
    for row in rows:
        assert row.ours is not None or row.note.startswith(("no engine", "our engine"))
        assert row.ours is None or (np.isfinite(row.ours) and row.ours > 0)
        assert row.theirs is None or row.theirs > 0
    for target in targets.TARGETS:
        if target.family == name and target.against != targets.C:  # C is a peer
            assert [row.work for row in rows if target.fits(row)], target.name


def test_a_family_measures_the_rows_that_are_wanted() -> None:
    rows = importlib.import_module("benchmarks.medium").family(replace(QUICK, only=("1 x 128",)))
    assert [row.work for row in rows] == ["1.25 M, 1 x 128 per step, float32"] * 2


def test_the_table_of_targets_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row has its target; one without a peer has no figure, and each side of AVX2's rows is held to it."""
    asked = []

    def family(name: str, flags: list[str], environment: dict[str, str] | None, left: float) -> object:
        work = flags[flags.index("--only") + 1]
        asked.append((name, work, environment))
        found = Row(work, "best of PyTorch, JAX", "µs/step", 2.0)
        peak_row = Row(work, "float32 peak of the core", "GFLOP/s", 1.0, 2.0, 66.0, scale="%")
        if work == targets.MANY and not environment:
            found = replace(found, against="JAX", theirs=4.0, value=1.95)
        return {"vector_bits": 512}, [found, replace(found, against="C yardstick, float32", value=0.46), peak_row]

    monkeypatch.setattr(targets, "avx2", lambda: {"held": "to AVX2"})
    _, rows = targets.measured(targets.TARGETS, [], 60.0, family)
    by_name = {row.work: row for row in rows}
    assert [*by_name] == [target.name for target in targets.TARGETS]
    assert [(by_name[targets.NAMES].target, by_name[targets.NAMES].met)] == [(0.45, True)]  # within 3 %
    many = by_name[f"{targets.MANY} / best framework"]
    assert (many.target, many.met, many.note) == (2.0, True, "the higher target 3 ×: missed")
    assert by_name[f"{targets.LARGE} / best framework"].met is None
    assert cells(by_name[f"{targets.LARGE} / best framework"])[4:8] == ("-", "-", "≥ 1.3 ×", "-")
    share = by_name[f"{targets.ONE}, of the peak"]
    assert (share.value, share.met, share.note) == (66.0, True, "the higher target 68 %: met")
    held = {work for _, work, environment in asked if environment}
    assert held == {targets.ONE, targets.MANY, targets.LARGE}
    assert len(asked) == len(set(map(str, asked))) == 14  # a work that has two targets runs once
    _, late = targets.measured(targets.TARGETS[:1], [], 0.0, family)
    assert [(row.value, row.note) for row in late] == [(None, "no time was left")]


# Between them every option that a peer knows: both kinds of positions, activations, heads and norms.
MODELS = {
    "alice": {"final_norm": True, "norm_embedding": False},
    "vidya": {},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("library", [name for name in ("torch", "jax") if importlib.util.find_spec(name)])
def test_peers_compute_the_same_losses(library: str, name: str) -> None:
    small = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 12, "init_std": 0.3} | MODELS[name]
    same = work.synthetic(getattr(work, name.upper()).model_copy(update=small), rows=3, steps=4)
    ours = race.Ours(same)
    ours.reset()
    losses = ours.train()
    sides = apart(race.torch_sides, same, False) if library == "torch" else apart(race.jax_sides, same)[:1]
    for side in sides:
        for _ in range(2):  # a reset must restore the initial weights
            seconds, theirs = timed(side, cpu_time=True)
            assert seconds > 0
            race.same_losses(side.name, theirs, losses, rtol=1e-4)


class Fake:
    """A side with losses of its own."""

    def __init__(self, name: str, losses: list[float]) -> None:
        self.name, self.losses, self.runs = name, np.array(losses), 0

    def reset(self) -> None:
        if not len(self.losses):
            raise OSError("no compiler")

    def train(self) -> np.ndarray:
        self.runs += 1
        return self.losses


def test_a_race_over_other_work_is_off() -> None:
    with pytest.raises(AssertionError, match="other: losses differ"):
        race.race([Fake("ours", [2.0, 1.0]), Fake("other", [2.0, 1.01])], QUICK)
    with pytest.raises(AssertionError, match="ours: losses differ"):
        race.race([Fake("ours", [2.0, float("nan")]), Fake("other", [2.0, 1.0])], QUICK)


def test_a_peer_that_cannot_run_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    sides = [Fake("ours", [2.0]), Fake("broken", []), Fake("lost", [float("nan")]), Fake("peer", [2.0])]
    assert [t.name for t in race.race(sides, QUICK)] == ["ours", "peer"]
    told = capsys.readouterr().err
    assert "broken: cannot run here (OSError: no compiler)" in told
    assert "lost: its losses are not finite here" in told


def test_our_own_failure_is_not_hidden() -> None:
    with pytest.raises(OSError, match="no compiler"):
        race.race([Fake("ours", [])], QUICK)


ALONE = """
import sys
from benchmarks import alice
from benchmarks.common import Options, alone

row = alice.family(Options(quick=True))[0]
print(row.against, row.ours > 0, row.theirs > 0)
alone("auto")
sys.modules["torch"] = sys
alone("pytorch")
alone("auto")
"""


def test_no_peer_is_imported_in_our_sides_process() -> None:
    """Peers race in processes of their own; were one imported in ours, the benchmark would end."""
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False)
    if all(map(importlib.util.find_spec, ("torch", "jax"))):
        assert done.stdout.startswith(("PyTorch", "JAX"))
        assert done.stdout.endswith("True True\n")
    assert done.stderr.endswith(
        "AssertionError: torch ran in our side's process, which may change it: see benchmarks/apart.py\n"
    )


def fakes(losses: list[float]) -> list[Fake]:
    """Sides for another process: one whose losses are the number of that process, one that cannot run."""
    if not losses:
        raise AssertionError("other work")
    return [Fake("there", [float(os.getpid())]), Fake("broken", [])]


def test_a_side_apart_runs_in_its_own_process(capsys: pytest.CaptureFixture[str]) -> None:
    there, broken = apart(fakes, [1.0])
    timings = race.race([there, broken], QUICK)
    assert [(t.name, t.losses[0] == os.getpid()) for t in timings] == [("there", False)]
    assert len({timed(there, cpu_time)[1][0] for cpu_time in (False, True)}) == 1
    assert "broken: cannot run here (OSError: no compiler)" in capsys.readouterr().err


def test_a_side_apart_that_is_wrong_or_gone_is_told() -> None:
    with pytest.raises(AssertionError, match="other work"):
        apart(fakes, [])
    with pytest.raises(Failed, match="TypeError"):
        apart(fakes)
    with pytest.raises(Failed, match="its process ended"):
        apart(os._exit, 1)


def test_the_process_of_sides_that_are_forgotten_ends() -> None:
    sides = apart(fakes, [1.0])
    process = int(sides[0].train()[0])
    (child,) = [child for child in multiprocessing.active_children() if child.pid == process]
    del sides
    gc.collect()
    child.join(30)
    assert child.exitcode == 0


def test_rectangles_are_the_feed_padded() -> None:
    same = work.names(5, 3, QUICK)
    inputs, targets, weights = same.rectangles()
    for step in range(3):
        (whole,) = same.feed.micro_batches(step)
        T = whole.inputs.shape[1]
        np.testing.assert_array_equal(weights[step, :, :T], whole.weights)
        assert not weights[step, :, T:].any()
        here = whole.weights > 0
        np.testing.assert_array_equal(inputs[step, :, :T][here], whole.inputs[here])
        np.testing.assert_array_equal(targets[step, :, :T][here], whole.targets[here])


def test_the_models_are_those_of_the_table() -> None:
    assert n_params(work.ALICE) == 34_240
    assert n_params(work.VIDYA) == 1_253_888
    assert n_params(work.TEN_MILLION) == 10_740_096
    found = [n_params(sizes.model_of(shape)) for shape in sizes.SHAPES]
    assert found == sorted(found)
    assert 1e3 < found[0] < 2.5e3
    assert 9e7 < found[-1] < 1.2e8


def test_the_peak_is_above_any_product() -> None:
    a = np.ones((256, 256), np.float32)
    assert peak.measured() > 1e9
    assert peak.bandwidth() > 1e8
    assert (a @ a)[0, 0] == 256


def test_a_target_is_met_or_not() -> None:
    assert Row("w", "a", "s", value=3.0, target=3.0).met is True
    assert Row("w", "a", "s", value=2.9, target=3.0).met is False
    assert Row("w", "a", "s", value=2.9, rule="<=", target=3.0).met is True
    assert Row("w", "a", "s", target=3.0).met is None
    assert Row("w", "a", "s", value=3.0).met is None


def test_records_are_added_to(tmp_path: Path) -> None:
    where = {"cpu": "a", "target": "b", "cores": 2, "vector_bits": 512, "peak_gflops": 236.0, "system": "s"}
    where |= {"versions": {"jax": None, "numpy": "2"}, "commit": "c0ffee", "date": "2026-01-02", "load": []}
    rows = [Row("work", "peer", "µs", 2.0, 6.0, 3.0, target=2.5)]
    path = tmp_path / "RECORDS.md"
    path.write_text("# Records\n")
    every.record(where, rows, path)
    every.record(where, rows, path)
    text = path.read_text()
    assert text.startswith("# Records\n")
    assert text.count("## 2026-01-02, commit c0ffee") == 2
    assert text.count(markdown(rows)) == 2
    assert "3 ×" in text
    assert "≥ 2.5 ×" in text
    assert "yes" in text


def test_the_best_figures_are_those_of_the_history() -> None:
    text = records.RECORDS.read_text(encoding="utf-8")
    assert records.refreshed(text) == text, "run python -m benchmarks.records"


def test_the_best_of_two_runs(tmp_path: Path) -> None:
    where = {"cpu": "a", "target": "b", "vector_bits": 512, "cores": 2, "peak_gflops": 9.0, "system": "s"}
    where |= {"versions": {}, "commit": "c0ffee1", "date": "2026-01-02", "load": []}
    path = tmp_path / "b.md"
    for us, times, commit in ((2.0, 3.0, "c0ffee1"), (2.2, 3.5, "c0ffee2")):
        rows = [
            Row("names, 1 x 16 a step", "C", "µs/step", us, 4.0, us / 4, "<=", 0.6),
            Row("alice", "JAX", "µs", us, 6.0, times, target=2.5),
        ]
        every.record(where | {"commit": commit}, rows, path)
    assert records.summary(tmp_path).splitlines()[-2:] == [
        "| names, 1 x 16 per step | C | 2 µs/step | 4 | 0.5 × | ≤ 0.6 × | yes | 2026-01-02, c0ffee1 |",
        "| alice | JAX | 2.2 µs | 6 | 3.5 × | ≥ 2.5 × | yes | 2026-01-02, c0ffee2 |",
    ]


def test_a_device_trains_all_sizes_beside_the_plain_loop() -> None:
    """At the smallest shapes on the processor, where the two sides' losses are compared; a late size is left out."""
    pytest.importorskip("torch")
    from benchmarks import gpu

    assert n_params(gpu.SIZES["124M"].model) == pytest.approx(124e6, rel=0.01)
    place = gpu.Place("cpu", "float32", compiled=False)
    rows = gpu.measure(list(gpu.SIZES), place, replace(QUICK, peers=True))
    assert [row.ours > 0 and row.theirs > 0 and not row.note for row in rows] == [True] * 8
    late = gpu.measure(["names"], replace(place, limit=0), QUICK)
    assert [(row.ours, row.note) for row in late] == [(None, "not measured: no time was left")] * 2


def test_the_sizes_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [p for shape in sizes.SHAPES[:2] if (p := sizes.point("manual", shape, Options(seconds=0.05)))]
    assert [p["engine"] for p in points] == ["manual", "manual"]
    assert all(p["us_per_token"] > sizes.limit(s)[0] for p, s in zip(points, sizes.SHAPES, strict=False))
    sizes.draw(points, tmp_path / "sizes.svg", {"cpu": "a", "commit": "c", "date": "d"})
    assert (tmp_path / "sizes.svg").stat().st_size > 1000
