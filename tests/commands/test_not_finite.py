"""Weights that are not finite: a named error with status 6 from every command that reads them, and no NaN in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.runs import checkpoint
from microgpt.terminal import output_json

TINY = ["--engine", "manual"]
READERS = {
    "info": ["info", "run"],
    "info --json": ["info", "run", "--json"],
    "generate": ["generate", "run", "-n", "1"],
    "generate --json": ["generate", "run", "-n", "1", "--json", *TINY],
    "eval": ["eval", "run", "--samples", "1", "--json"],
    "finetune": ["finetune", "run", "--data", "names.txt", "--out", "new", "--steps", "1"],
    "extend": ["train", "--extend", "1", "--lr", "0.01", "--out", "run"],
    **{to: ["export", "run", "--to", to, "--out", "new", "--no-quality"] for to in ("safetensors", "hf", "html")},
    "chat": ["chat", "chat", "--prompt", "hi"],
}


def spoil(run: Path, out: Path, change: float, name: str = "wte") -> None:
    """A copy of a run's checkpoint as a run, one of whose weights is multiplied by `change`."""
    saved = checkpoint.read(run)
    tensors = saved.tensors()
    tensors[name] = tensors[name].copy()
    tensors[name][0] *= change
    (out / "checkpoints").mkdir(parents=True)
    checkpoint.write(out / "checkpoints", saved.config, saved.tokenizer, tensors, saved.state)
    (out / "run.toml").write_text(saved.config.to_toml())
    (out / "metrics.jsonl").write_text("")


@pytest.fixture
def here(names_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "names.txt").write_text("em\nava\n" * 5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("words", READERS.values(), ids=READERS)
def test_every_reader_names_the_tensor(
    here: Path,
    names_run: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    value: float,
) -> None:
    source = request.getfixturevalue("chat_run") if words[0] == "chat" else names_run
    spoil(source, here / words[1].replace("--extend", "run"), value)
    before = sorted(here.rglob("*"))
    assert main(words) == 6
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("microgpt: run/checkpoints" if words[0] != "chat" else "microgpt: chat/checkpoints")
    assert "model.safetensors: tensor 'wte' holds a number that is not finite" in seen.err
    assert seen.err.count("\n") == 1
    assert {path for path in here.rglob("*") if path.name not in (".lock", ".owner.json")} == set(before)


def test_moments_that_are_not_finite_end_a_resume(
    here: Path, names_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(names_run, here / "run", np.nan, "m.wte")
    assert main(["train", "--extend", "1", "--lr", "0.01", "--out", "run"]) == 6
    assert "'m.wte' holds a number that is not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "run", "-n", "1", *TINY],
        ["generate", "run", "-n", "1", "--engine", "fused"],
        ["generate", "run", "-n", "1", "--engine", "fused", "--temperature", "0"],
        ["eval", "run", "--samples", "0", "--json", *TINY],
    ],
)
def test_finite_weights_whose_logits_are_not_are_refused(
    here: Path, names_run: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    saved = checkpoint.read(names_run)
    tensors = {name: np.full_like(value, np.finfo(value.dtype).max) for name, value in saved.tensors().items()}
    (here / "run" / "checkpoints").mkdir(parents=True)
    checkpoint.write(here / "run" / "checkpoints", saved.config, saved.tokenizer, tensors, saved.state)
    with np.errstate(all="ignore"):
        assert main(words) == 6
    assert "not finite" in capsys.readouterr().err


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    output_json({"a": [np.nan, float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [None, None, 1.5]}
