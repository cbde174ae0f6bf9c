"""The measured speed of the engines: kept, read again, and measured anew where the file is not of this machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from microgpt.config import Model, Optim
from microgpt.engines import ladder
from microgpt.engines.common import calibration
from microgpt.engines.ladder import calibrate, choose
from microgpt.model import n_params

FIGURES: calibration.Figures = [(1000, [(4.0, 1e-3), (64.0, 16e-3)], 2.0), (100_000, [(4.0, 1e-1)], 1.0)]
SMALL = Model(vocab_size=27)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(calibration, "_unsaved", {})
    monkeypatch.setattr(calibration, "BUDGET", 0.01)
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that are measured, instead of measuring them."""
    calls: list[str] = []

    def measure(cls: type, dtype: str, device: str) -> calibration.Figures:
        calls.append(cls.__module__.rpartition(".")[2])
        return FIGURES

    monkeypatch.setattr(calibration, "measure", measure)
    return calls


def test_an_engine_is_measured_once(measured: list[str], cache: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        calibrate("manual", progress=lambda message, seconds: said.append(message))
    assert measured == ["manual"]
    assert len(said) == 1
    assert "manual" in said[0]
    assert calibration.read() == {"manual float32 cpu": FIGURES}
    assert [path for path in cache.rglob("*") if path.is_file()] == [calibration.path()]
    calibrate("manual", "float64")
    assert measured == ["manual", "manual"]
    assert set(calibration.read()) == {"manual float32 cpu", "manual float64 cpu"}


def test_auto_measures_engines_that_may_be_the_fastest_and_import_quickly(measured: list[str]) -> None:
    calibrate()
    assert "manual" in measured
    assert not {"scalar", "functional", "pytorch"} & set(measured)


def test_what_cannot_be_measured_is_left_to_choose(measured: list[str]) -> None:
    calibrate("manul")
    calibrate("manual", "bfloat16")
    assert measured == []


def damaged(content: dict[str, Any]) -> dict[str, bytes]:
    """Files that hold no figures, by what is wrong."""
    good = json.dumps(content).encode()
    figures = content["figures"]["manual float32 cpu"]

    def with_figures(changed: Any) -> bytes:
        return json.dumps({**content, "figures": {"manual float32 cpu": changed}}).encode()

    return {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "not an object": b"[]",
        "another file": b"{}",
        "no points": with_figures([[1000, [], 1.0]]),
        "negative": with_figures([[1000, [[4, -1.0]], 1.0]]),
        "words": with_figures([[1000, [["four", 1.0]], 1.0]]),
        "a point less": with_figures([[1000, [[4]], 1.0]]),
        "no gain": with_figures([[1000, [[4, 1.0]]]]),
        "another CPU": json.dumps({**content, "origin": "another"}).encode(),
        "not lists": with_figures(figures[0][0]),
    }


@pytest.mark.parametrize("fault", [*damaged({"figures": {"manual float32 cpu": [[1, [[1, 1]], 1]]}})])
def test_a_file_that_holds_no_figures_of_this_machine_is_measured_anew(measured: list[str], fault: str) -> None:
    calibrate("manual")
    content = json.loads(calibration.path().read_bytes())
    calibration.path().write_bytes(damaged(content)[fault])
    assert calibration.read() == {}
    calibrate("manual")
    assert measured == ["manual", "manual"]
    assert calibration.read() == {"manual float32 cpu": FIGURES}


def test_another_cpu_and_another_version_have_files_of_their_own(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate("manual")
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "identity", lambda: "another CPU")
        assert calibration.read() == {}
        calibrate("manual")
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "VERSION", calibration.VERSION + 1)
        assert calibration.read() == {}
    assert measured == ["manual", "manual"]
    assert calibration.read() == {"manual float32 cpu": FIGURES}


def test_without_a_folder_to_write_to_they_live_in_the_process(
    measured: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("MICROGPT_CACHE_DIR", str(cache / "file"))
    calibrate("manual")
    calibrate("manual")
    assert measured == ["manual"]
    assert calibration.read() == {"manual float32 cpu": FIGURES}


def test_choose_estimates_from_what_was_measured(measured: list[str]) -> None:
    def seconds(name: str, dtype: str = "auto") -> float:
        return choose(SMALL, Optim(), name=name, dtype=dtype, tokens_per_step=8).seconds_per_step

    stated = {name: seconds(name) for name in ("manual", "tensor", "scalar")}
    calibrate("manual")
    assert seconds("manual") == pytest.approx(calibration.estimate(FIGURES, n_params(SMALL), 8))
    pace = seconds("manual") / stated["manual"]
    assert seconds("tensor") == pytest.approx(pace * stated["tensor"])  # as fast, beside manual, as where it was fitted
    assert seconds("scalar") == pytest.approx(pace * stated["scalar"])


def test_auto_takes_what_is_measured_to_be_the_fastest(measured: list[str]) -> None:
    for name in ladder.LADDER:
        figures = [(1000, [(4.0, 1e-9 if name == "tensor" else 1.0)], 1.0)]
        for dtype in ladder.LADDER[name].dtypes:
            calibration.write(calibration.key(name, dtype, "cpu"), figures)
    choice = choose(SMALL, Optim(), device="cpu")
    assert (choice.name, choice.seconds_per_step) == ("tensor", pytest.approx(4.192e-9))


def test_between_points_it_is_linear_or_a_power_and_beyond_them_proportional() -> None:
    points = [(4.0, 2.0), (16.0, 8.0), (64.0, 8.0)]
    for x, y in {1.0: 2.0, 4.0: 2.0, 10.0: 5.0, 16.0: 8.0, 32.0: 8.0, 64.0: 8.0, 128.0: 16.0}.items():
        assert calibration.interpolate(points, x) == pytest.approx(y)
    assert calibration.interpolate(points, 8.0, math.log, math.exp) == pytest.approx(4.0)
    assert calibration.estimate(FIGURES, 10_000, 4) == pytest.approx(1e-2)
    assert calibration.estimate(FIGURES, 1_000_000, 8) == pytest.approx(2.0)
    assert calibration.estimate(FIGURES, 1000, 8, rows=2) == pytest.approx(1e-3)  # half of one row's


def test_measuring_gives_positive_figures_in_order() -> None:
    figures = calibration.measure(ladder.engine("manual"), "float32", "cpu")
    assert figures
    assert [n for n, *_ in figures] == sorted(n for n, *_ in figures)
    for _, points, gain in figures:
        assert gain > 0
        assert points
        assert all(seconds > 0 for _, seconds in points)
        assert [tokens for tokens, _ in points] == list(calibration.TOKENS[: len(points)])


def test_a_busy_machine_has_two_numbers_of_tokens_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one alone, of four tokens, a step of 2,048 was reckoned to take 512 times as long."""
    monkeypatch.setattr(calibration, "BUDGET", -1.0)
    for n, points, _ in calibration.measure(ladder.engine("manual"), "float32", "cpu"):
        assert len(points) == 2, n
