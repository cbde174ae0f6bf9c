"""Every number of the command line has limits: an extreme one is refused by name, quickly, in one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from microgpt.cli import app, main
from microgpt.config import Config
from microgpt.engines.common import hardware
from microgpt.errors import MachineError
from microgpt.runs import checkpoint
from microgpt.training import prepare

RUNS = Path(__file__).parents[1] / "compatibility" / "fixtures" / "runs"
OUTSIDE = ("nan", "inf", "9223372036854775808", "18446744073709551616", "1e308")  # the schema's own test has more
# The rest of each command; the numbers are asked of it.
COMMANDS = {
    "train": ["{text}", "--out", "{new}"],
    "generate": ["{run}"],
    "eval": ["{run}", "--data", "{text}"],
    "finetune": ["{run}", "--data", "{text}", "--out", "{new}"],
    "bench": ["{text}"],
    "tokenizer train": ["{text}", "--out", "{new}"],
    "data scrape": ["http://127.0.0.1:9/", "--out", "{new}"],
}


def numbers() -> Iterator[tuple[str, str]]:
    """Every flag of every command that takes a number."""
    for command in COMMANDS:
        words = command.split()
        found = app
        for word in words:
            found = found[word]
        for argument in found.assemble_argument_collection():
            if {int, float} & {argument.hint, *get_args(argument.hint)} and argument.name.startswith("--"):
                yield command, argument.name


FLAGS = list(numbers())


def test_flags_are_found() -> None:
    assert {command for command, _ in FLAGS} == set(COMMANDS)
    assert ("train", "--n-layer") in FLAGS
    assert ("generate", "--top-k") in FLAGS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_an_extreme_number_is_refused(
    command: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("anna\nemma\n" * 20, encoding="utf-8")
    places = {"text": text, "new": tmp_path / "new", "run": RUNS / "names"}
    words = [*command.split(), *(word.format(**places) for word in COMMANDS[command])]
    for value in OUTSIDE:
        if flag == "--seed" and command in ("generate", "chat") and value == str(2**63):
            continue  # the service's seeds go to 2^64, and the terminal repeats its replies
        assert main([*words, f"{flag}={value}"]) == 2, (flag, value)
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        name = flag.removeprefix("--").replace("-", "_")
        assert name in said.replace("-", "_") or "tokenizer_size" in said or "keep" in said, said
        assert len(said) < 700
    assert not (tmp_path / "new").exists()


def test_a_model_that_cannot_fit_is_refused_with_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("anna\nemma\n" * 20, encoding="utf-8")
    words = ["train", str(text), "--out", str(tmp_path / "new"), "--engine", "manual", "--steps", "1"]
    for flags, lower in (
        (["--n-embd", "1048576"], "--n-embd"),
        (["--n-embd", "16384", "--n-layer", "1024"], "--n-layer"),
        (["--batch-size", "1048576", "--grad-accum", "1048576"], "--grad-accum"),
    ):
        assert main([*words, *flags]) == 5
        said = capsys.readouterr().err
        assert "GB of memory" in said
        assert lower in said
        assert not (tmp_path / "new").exists()


def test_the_vocabulary_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(map(chr, range(0x4E00, 0x5E00))), encoding="utf-8")
    monkeypatch.setattr(prepare, "memory", lambda: 2_000_000)  # 4,096 characters of 16 numbers, twice
    assert main(["train", str(text), "--out", str(tmp_path / "new"), "--engine", "manual", "--steps", "5"]) == 5
    assert "--vocab-size" in capsys.readouterr().err


def test_the_activations_of_a_micro_batch_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """22 GB were once taken by a model of 4,000 parameters. An engine that divides micro-batches takes any."""

    def require(engine: str, batch_size: int, grad_accum: int = 1, dtype: str = "float64") -> None:
        run = {"engine": engine, "batch_size": batch_size, "grad_accum": grad_accum, "dtype": dtype}
        config = Config.from_dict({"model": {"vocab_size": 27}, "run": run})
        prepare.require_memory(config, 6.0 * batch_size * grad_accum)

    monkeypatch.setattr(prepare, "memory", lambda: 1_000_000_000)
    for engine in ("manual", "tensor", "pytorch"):
        with pytest.raises(MachineError, match=r"at least 1[45]\.\d GB .* lower --batch-size \(a larger"):
            require(engine, 2**20)
        require(engine, 2**14, 2**6)
    require("pytorch", 2**16, dtype="float32")
    require("fused", 2**20)


def test_memory_is_the_least_of_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("max\n", encoding="ascii")
    monkeypatch.setattr(hardware, "CGROUPS", (str(limit), str(tmp_path / "missing")))
    whole = hardware.memory()
    limit.write_text("1000000\n", encoding="ascii")
    assert hardware.memory() == 1_000_000
    assert whole is None or whole > 1_000_000
    shutil.rmtree(tmp_path)
    assert hardware.memory() == whole


@pytest.mark.parametrize("flags", [["--text-field", "\udcff"], ["--val-data", "\udcff.txt"]])
def test_a_value_that_is_no_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    """A byte that is not UTF-8, which the configuration in run.toml could not hold."""
    text = tmp_path / "text.txt"
    text.write_text("anna\nemma\n" * 20, encoding="utf-8")
    assert main(["train", str(text), "--out", str(tmp_path / "new"), "--steps", "1", *flags]) == 2
    assert "must be text, which run.toml can hold" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_no_memory_to_serialize_is_an_error_of_ours(names_run: Path, tmp_path: Path) -> None:
    """A tensor that has to be copied into rows one after another, and does not fit."""
    saved = checkpoint.read(names_run)
    huge = np.broadcast_to(np.zeros(1), (2**20, 2**24))  # 128 TiB that take none
    with pytest.raises(MemoryError):
        checkpoint.write(tmp_path, saved.config, saved.tokenizer, saved.tensors() | {"m.wte": huge}, saved.state)


@pytest.mark.parametrize("words", [["serve", "loop"], ["train", "loop", "--steps", "1"], ["info", "loop"]])
def test_a_link_to_itself_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert main(words) in (2, 3, 4)
    assert "loop" in capsys.readouterr().err
