"""bench and doctor: what they print, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.engines.common import calibration, compiling
from microgpt.engines.ladder import LADDER
from microgpt.errors import MachineError
from microgpt.training.bench import lines_of_code


def test_the_ladder_trains_the_same_model_on_every_engine(
    given_names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "ladder.svg"
    words = ["bench", "ladder", "--data", str(given_names), "--steps", "10", "--plot", str(picture), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["engine"] for row in found["rungs"]] == [
        name for name, rung in LADDER.items() for _ in set(rung.dtypes) & {"float64", "float32"}
    ]
    for row in found["rungs"]:
        assert row["loss_difference"] < (1e-12 if row["dtype"] == "float64" else 1e-5)
        assert row["lines"] > 100
        assert row["threads"] == 1
    assert picture.read_text(encoding="utf-8").startswith("<?xml")


def test_one_engine_ends_with_one_object(given_names: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", str(given_names), "--engine", "manual", "--dtype", "float64", "--threads", "1", "--steps", "60"]
    assert main([*words, "--full-context", "--batch-size", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == (
        "engine dtype threads n_params steps us_per_step tokens_per_s gflops compile_s peak_rss_mb loss_last50".split()
    )
    assert (found["engine"], found["dtype"], found["steps"]) == ("manual", "float64", 60)
    per_step = found["tokens_per_s"] * found["us_per_step"] / 1e6
    assert per_step == pytest.approx(2 * 16)  # two rows filled to the block
    assert found["gflops"] == pytest.approx(6e-9 * found["n_params"] * found["tokens_per_s"])


def test_lines_are_counted_without_comments_and_docstrings() -> None:
    assert lines_of_code("scalar") < len(
        Path(f"{Path(__file__).parents[2]}/microgpt/engines/scalar.py").read_text().splitlines()
    )


def test_the_doctor_tells_what_is_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(12 * 10**power, [(128.0, 1e-8 * 10**power)], 1.0) for power in range(2, 8)]
    many = {f"{name} {dtype}": sizes for name, rung in LADDER.items() for dtype in rung.dtypes}
    monkeypatch.setattr(calibration, "read", lambda: many)
    monkeypatch.setenv("MICROGPT_DATA_DIR", f"{Path(__file__).parent}")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cpu"]["vector_bits"] in (128, 256, 512)
    assert set(found["engines"]) == set(LADDER)
    assert found["compiler"]["compiles"] is True
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "auto" in said
    assert "scalar, 128 tokens per step, float64: 1 K 1.0 µs, 1.2 M 1.0 ms, 120.0 M 100 ms" in said
    assert said.count("min_deferred") == 1  # of the second plan what differs from the first
    assert f"engines   {', '.join(name for name in LADDER if found['engines'][name] == 'ready')} are ready" in said
    assert "{" not in said
    assert "': " not in said
    assert len(said.splitlines()) < 30
    assert not [line for line in said.splitlines() if len(line) > 100 and " " in line.strip()]


def test_doctor_fails_where_the_compiler_does_not_compile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("microgpt.engines.common.compiling.compiler", lambda: {"numba": "0", "compiles": False})
    assert main(["doctor"]) == MachineError.status
    assert (
        capsys.readouterr().err
        == "microgpt: Numba 0 does not compile here; unset NUMBA_DISABLE_JIT, or reinstall numba\n"
    )
    monkeypatch.setattr("microgpt.engines.common.compiling.compiler", lambda: {"numba": None, "compiles": False})
    assert main(["doctor"]) == 0, "an installation without Numba lacks it, but nothing is broken"


def test_compiling_is_reported_within_the_block() -> None:
    reported: list[tuple[str, float | None]] = []

    def report(message: str, seconds: float | None) -> None:
        reported.append((message, seconds))

    compiling.report("before", None)
    with compiling.watch_compiler(report):
        compiling.report("train", None)
        compiling.report("train", 0.5)
    compiling.report("behind", None)
    assert reported == [("train", None), ("train", 0.5)]


@pytest.mark.parametrize("command", [["generate", "-n", "1"], ["eval"]])
def test_commands_that_open_a_run_tell_once_what_one_waits_for(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from microgpt.engines.fused.jit import cache

    text = tmp_path / "text.txt"
    text.write_text("".join(f"{word}\n" for word in ("emma", "olivia", "ava", "mia") * 9))
    run, load = tmp_path / "run", cache.load
    assert main(["train", "names", "--data", str(text), "--steps", "2", "--engine", "fused", "--out", str(run)]) == 0

    def slow(dtype: str, narrow: bool) -> Any:
        compiling.report("compile the kernels", None)
        compiling.report("train", None)
        return load(dtype, narrow)

    capsys.readouterr()
    monkeypatch.setattr(cache, "load", slow)
    assert main([command[0], str(run), *command[1:], "--engine", "fused"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line in ("compile the kernels", "train")] == ["compile the kernels"]
