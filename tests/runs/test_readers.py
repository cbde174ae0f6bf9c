"""Readers of a run in training, and of files that are no files: the newest is read, the others refused at once."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt import files
from microgpt.cli import main
from microgpt.commands.tokenizer import open_tokenizer
from microgpt.errors import CheckpointError
from microgpt.inference.language_model import LanguageModel
from microgpt.runs import checkpoint, manifest
from microgpt.runs.folder import RunFolder
from microgpt.training import resume


@pytest.fixture
def run(names_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(names_run, tmp_path / "run")


def save(run: Path, step: int) -> Path:
    """The newest checkpoint again as another step, and only that one left."""
    saved = checkpoint.read(run)
    given = saved.config, saved.tokenizer, saved.tensors(), saved.state | {"step": step}
    written = checkpoint.write(run / "checkpoints", *given)
    checkpoint.rotate(run / "checkpoints", 1, None)
    return written


READERS: dict[str, Callable[[Path], object]] = {
    "model": lambda run: LanguageModel.open(run, engine="manual"),
    "weights": lambda run: checkpoint.read(run, weights=True),
    "tokenizer": open_tokenizer,
    "info": lambda run: main(["info", str(run), "--debug"]),
    "export": lambda run: main(["export", str(run), "--to", "kgx", "--out", f"{run}.json", "--debug"]),
    "fine-tuning": lambda run: resume.finetuned(run, "text.txt", {}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("moment", ["found", "described", "weights"])
def test_a_folder_that_was_rotated_away_is_looked_for_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, reader: str, moment: str
) -> None:
    """The trainer replaces the checkpoint after it was found, after its settings were read, before its weights are."""
    owner, name = {
        "found": (manifest, "read"),
        "described": (checkpoint.model_folder, "read"),
        "weights": (checkpoint, "read_tensors"),
    }[moment]
    real, left = getattr(owner, name), [3]

    def late(*args: object) -> object:
        if left[0] > 0 and threading.current_thread() is threading.main_thread():
            left[0] -= 1
            monkeypatch.setattr(owner, name, real)
            save(run, 1000 - left[0])
            monkeypatch.setattr(owner, name, late)
        return real(*args)

    monkeypatch.setattr(owner, name, late)
    found = READERS[reader](run)
    assert not isinstance(found, int) or found == 0
    if moment != "weights" or reader not in ("tokenizer", "fine-tuning"):
        assert left == [0]


def test_a_run_is_read_while_its_checkpoints_are_replaced(run: Path) -> None:
    saved = checkpoint.read(run)
    tensors, done = saved.tensors(), threading.Event()

    def train() -> None:
        for step in range(100, 10_000):
            if done.is_set():
                return
            given = saved.config, saved.tokenizer, tensors, saved.state | {"step": step}
            checkpoint.write(run / "checkpoints", *given)
            checkpoint.rotate(run / "checkpoints", 1, None)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        steps, end = [], time.monotonic() + 30
        while len(set(steps)) < 10 and time.monotonic() < end:
            steps.append(checkpoint.read(run, weights=True).step)
    finally:
        done.set()
        trainer.join()
    assert steps == sorted(steps)
    assert len(set(steps)) == 10


def test_damage_is_said_at_once_and_a_removed_folder_by_its_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, tries = checkpoint.find(run), [0]
    real = checkpoint.find

    def find(path: Path) -> Path:
        tries[0] += 1
        return real(path)

    monkeypatch.setattr(checkpoint, "find", find)
    (newest / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoint.read(run)
    assert tries == [1]
    shutil.rmtree(newest)
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoint.read(newest)


# Metrics: a damaged line is left out and said.

GOOD = [b'{"step": 1, "loss": 3.0}\n', b'{"step": 2, "loss": 1.0}\n']
DAMAGED = [
    b"5\n",
    b"null\n",
    b"[]\n",
    b'"step"\n',
    b'{"loss": "x"}\n',
    b'{"step": 2, "loss": "x"}\n',
    b'{"step": "2", "loss": 1}\n',
    b'{"step": 2, "loss": null}\n',
    b'{"step": 2, "loss": 1e999}\n',
    b'{"step": 2, "loss": NaN}\n',
    b'{"step": 2, "loss": ' + b"9" * 400 + b"}\n",
    b'{"step": ' + b"9" * 400 + b', "loss": 1}\n',
    b'{"step": 2, "loss": ' + b"9" * 5000 + b"}\n",
    b"\xff\n",
    b"[" * 200_000 + b"\n",
    b'{"a":' * 700 + b"\n",
    b"\0" * 5000 + b"\n",
    b"\n",
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: repr(line[:30]))
def test_damaged_metrics_are_left_out(run: Path, line: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(run)
    folder.metrics_file.write_bytes(GOOD[0] + line + GOOD[1])
    assert main(["info", str(run), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["losses"]["mean_of_last_50"] == 2.0
    assert "damaged lines are left out" in said.err
    folder.rewind(2, 2)
    assert folder.metrics_file.read_bytes() == b"".join(GOOD)
    assert folder.metrics_file.with_suffix(".damaged").read_bytes() == line  # nothing is lost
    assert "they are moved to metrics.damaged" in capsys.readouterr().err


def test_a_line_that_a_crash_cut_short_is_no_damage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(run)
    folder.metrics_file.write_bytes(b"".join(GOOD) + b'{"step": 3, "lo')
    assert len(list(folder.metrics())) == 2
    folder.rewind(9, 9)
    assert folder.metrics_file.read_bytes() == b"".join(GOOD)
    assert not folder.metrics_file.with_suffix(".damaged").exists()
    assert capsys.readouterr().err == ""


# Files that are none, or far too large.


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "socket": unix_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "sparse": sparse,
}


@pytest.fixture(params=SPECIAL)
def special(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        SPECIAL[request.param](path)

    return put


def test_a_file_is_opened_only_if_it_is_one(tmp_path: Path, special: Callable[[Path], None]) -> None:
    special(tmp_path / "x")
    with pytest.raises(OSError, match=r"not a plain file|Is a directory|larger than"):
        files.read_bytes(tmp_path / "x", files.LARGE)
    with pytest.raises(OSError, match="NUL"):
        files.read_bytes(tmp_path / "a\0b", 1)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "MANIFEST.json", "trainer/state.json", "README.md"])
def test_no_file_of_a_checkpoint_is_waited_for(
    run: Path, special: Callable[[Path], None], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    special(checkpoint.find(run) / name)
    assert main(["info", str(run)]) == 4
    said = capsys.readouterr().err
    assert name in said or (name == "MANIFEST.json" and "neither a model folder" in said)


@pytest.mark.parametrize(
    "command", [["info"], ["train", "--extend", "1", "--lr", "1", "--resume", "--out"]], ids=["info", "extend"]
)
def test_no_metrics_are_waited_for(
    run: Path, special: Callable[[Path], None], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    special(run / "metrics.jsonl")
    if (run / "metrics.jsonl").is_file():
        return  # of any size: they are read line by line
    assert main([*command, str(run)]) == 4
    assert "metrics.jsonl: cannot be read (" in capsys.readouterr().err
