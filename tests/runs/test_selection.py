"""Which checkpoint of a run is used: the best where it was kept, else the last, or the one that --checkpoint names."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import microgpt
from microgpt.cli import main
from microgpt.errors import CheckpointError
from microgpt.runs import checkpoint
from microgpt.runs.checkpoint import Selection

BEST, LAST = 100, 200
LINE = "using   the best checkpoint, of step 100; the last is of step 200 (--checkpoint last)\n"


def with_best(run: Path, out: Path) -> Path:
    """A run whose last checkpoint is worse than the best that was kept, with other weights."""
    saved = checkpoint.read(run)
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("step-*", ".lock"))
    for step, factor in ((BEST, 0.5), (150, 0.0), (LAST, 1.0)):
        tensors = {name: (value * factor).astype(value.dtype) for name, value in saved.tensors().items()}
        state = saved.state | {"step": step, "best": {"step": BEST, "val_loss": 1.5}}
        checkpoint.write(out / "checkpoints", saved.config, saved.tokenizer, tensors, state)
    return out


@pytest.fixture(scope="module")
def run(names_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_best(names_run, tmp_path_factory.mktemp("best") / "run")


@pytest.fixture(scope="module")
def chat(chat_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_best(chat_run, tmp_path_factory.mktemp("best") / "chat")


WORDS: dict[str, list[str]] = {
    "generate": ["generate", "run", "-n", "3", "--json"],
    "eval": ["eval", "run", "--samples", "0", "--json"],
    "chat": ["chat", "chat", "-p", "hi", "--json"],
    "export": ["export", "run", "--to", "safetensors", "--out", "exported", "--json"],
    "finetune": [
        "finetune",
        "run",
        "--data",
        "names.txt",
        "--steps",
        "2",
        "--samples",
        "0",
        "--out",
        "tuned",
        "--json",
    ],
    "info": ["info", "run", "--json"],
}


@pytest.fixture
def place(run: Path, chat: Path, names_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with both runs and a text."""
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "chat").symlink_to(chat)
    shutil.copy(names_run.parent / "names.txt", tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("verb", WORDS)
@pytest.mark.parametrize(
    ("flags", "kind", "step"),
    [([], "best", BEST), (["best"], "best", BEST), (["last"], "last", LAST), (["150"], "step", 150)],
)
def test_every_command_uses_it(
    verb: str, flags: list[str], kind: str, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS[verb], *[word for flag in flags for word in ("--checkpoint", flag)]]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["base_checkpoint" if verb == "finetune" else "checkpoint"] == {
        "kind": kind,
        "step": step,
        "last": LAST,
    }
    line = LINE if kind == "best" else LINE.replace("best checkpoint, of step 100", "checkpoint of step 150")
    assert (line in said.err) == (kind != "last" and verb != "info")
    assert said.err.count("using") == (kind != "last" and verb != "info")
    if verb == "info":
        assert found["step"] == (step if flags else LAST), "without the flag, where the run stands"
    if verb == "export":
        ours, theirs = (
            checkpoint.read(Path("exported")),
            checkpoint.read(Path("run", "checkpoints", f"step-{step:08d}")),
        )
        assert all(np.array_equal(value, theirs.weights()[name]) for name, value in ours.weights().items())
    if verb == "finetune" and kind != "last":
        assert f'base = "run/checkpoints/step-{step:08d}"' in Path("tuned", "run.toml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("place")
def test_the_weights_of_a_fine_tuning_are_those_of_the_checkpoint() -> None:
    flags = ["--lora-rank", "1"]  # the base's weights stay
    for which, step in (("best", BEST), ("last", LAST)):
        assert main([*WORDS["finetune"][:-3], *flags, "--checkpoint", which, "--out", which]) == 0
        base = checkpoint.read(Path("run", "checkpoints", f"step-{step:08d}")).base()
        tuned = checkpoint.read(Path(which)).base()
        assert all(np.array_equal(value, tuned[name]) for name, value in base.items())


def test_in_python(run: Path, names_run: Path) -> None:
    assert microgpt.load(run).selection == Selection("best", BEST, LAST)
    assert microgpt.load(run, checkpoint="last").selection == Selection("last", LAST, LAST)
    assert microgpt.load(run, checkpoint=150).path.name == "step-00000150"
    assert microgpt.load(names_run).selection == Selection("last", 5, 5)
    assert microgpt.load(run / "checkpoints" / "step-00000200").selection is None


def test_a_service_says_it_once(run: Path) -> None:
    pytest.importorskip("uvicorn")
    from microgpt.serve.admission import Admission
    from microgpt.serve.catalog import Catalog
    from microgpt.serve.metrics import Metrics
    from microgpt.serve.models import Models

    lines: list[str] = []
    admission = Admission(1, 1)
    for flags in ({}, {"checkpoint": "last"}):
        options: dict[str, Any] = {"max_streams": 1, "max_models": 1, "engine": flags, "log": lines.append}
        models = Models(Catalog({"m": (run,)}), admission, Metrics(admission, []), **options)
        model = asyncio.run(models.get())
        assert model.model.selection
        assert model.model.selection.step == (LAST if flags else BEST)
        model.retire()
    assert lines == [LINE.replace("using  ", "m: using").strip()]


@pytest.mark.parametrize(
    ("folder", "which", "status", "sentence"),
    [
        ("run", "7", 4, "--checkpoint 7: there is no checkpoint of this step; there are 100, 150, 200"),
        ("run", "newest", 2, "--checkpoint: must be last, best or a step, got 'newest'"),
        ("run", "-1", 2, "--checkpoint: must be last, best or a step, got '-1'"),
        ("plain", "best", 4, "plain: --checkpoint best: it keeps none (train with --eval-every, and"),
        ("run/checkpoints/step-00000200", "last", 2, "is one model, no run with checkpoints; leave it out"),
    ],
)
def test_a_choice_that_there_is_not(
    run: Path,
    names_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    which: str,
    status: int,
    sentence: str,
) -> None:
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "plain").symlink_to(names_run)
    monkeypatch.chdir(tmp_path)
    assert main(["generate", folder, f"--checkpoint={which}"]) == status
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_best_checkpoint_that_was_removed_is_not_missed(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "step-00000100")
    assert checkpoint.read(copy).selection == Selection("last", LAST, LAST)
    with pytest.raises(CheckpointError, match="keeps none"):
        checkpoint.read(copy, "best")


def test_a_step_is_read_beside_a_newest_checkpoint_that_is_damaged(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "checkpoints" / "step-00000200" / "trainer" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json"):
        checkpoint.read(copy)
    assert checkpoint.read(copy, BEST).step == BEST


def test_info_says_it_in_words(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["used", "the", "best", "checkpoint,", "of", "step", "100"] in lines
    assert ["step", "200", "of", "5"] in lines


def test_the_last_samples_of_training_are_those_of_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The held-out text is another one, so that learning by heart makes its loss worse."""
    (tmp_path / "a.txt").write_text("anna\nbob\nclara\n" * 9, encoding="utf-8")
    (tmp_path / "b.txt").write_text("carol\nbanal\nnora\n", encoding="utf-8")
    flags: list[Any] = [
        "--engine",
        "manual",
        "--val-data",
        tmp_path / "b.txt",
        "--steps",
        60,
        "--eval-every",
        10,
        "--patience",
        2,
    ]
    flags += ["--lr", 0.05, "--samples", 8, "--out", tmp_path / "run"]
    assert main(["train", *map(str, [tmp_path / "a.txt", *flags])]) == 0
    said = capsys.readouterr()
    used = checkpoint.read(tmp_path / "run").selection
    assert used
    assert used.kind == "best"
    assert used.step < used.last
    line = f"using   the best checkpoint, of step {used.step}; the last is of step {used.last} (--checkpoint last)\n"
    assert line in said.err
    assert main(["generate", str(tmp_path / "run"), "-n", "8", "--seed", "run"]) == 0
    assert capsys.readouterr().out == said.out
    assert main(["generate", str(tmp_path / "run"), "-n", "8", "--seed", "run", "--checkpoint", "last"]) == 0
    assert capsys.readouterr().out != said.out
    assert (
        main(["train", "--resume", "--out", str(tmp_path / "run"), "--patience", "9", "--stop-at", str(used.last + 1)])
        == 0
    )
    assert f"resumed {tmp_path / 'run' / 'checkpoints' / f'step-{used.last:08d}'}" in capsys.readouterr().err
    words = ["finetune", str(tmp_path / "run"), "--data", str(tmp_path / "b.txt"), "--steps", "2", "--samples", "0"]
    assert main([*words, "--out", str(tmp_path / "tuned")]) == 0, "the base's patience is no option of the new run"
