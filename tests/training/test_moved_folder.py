"""A run whose folder is moved, removed or replaced while it trains is saved elsewhere; nobody else's is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from microgpt.config import Config
from microgpt.errors import MachineError
from microgpt.runs import checkpoint
from microgpt.runs.folder import RunFolder
from microgpt.training.report import Callbacks
from microgpt.training.train import train


@pytest.fixture
def config(tmp_path: Path) -> Config:
    text = tmp_path / "text.txt"
    text.write_text("anna\nbob\ncarla\n" * 9)
    model = {"block_size": 8, "n_embd": 8, "n_head": 2}
    run = {"steps": 400, "eval_every": 60, "samples": 0, "engine": "manual", "dtype": "float64"}
    return Config.from_dict({"data": {"path": str(text), "val_fraction": 0.1}, "model": model, "run": run})


class Interrupt(Callbacks):
    """Does something to the folder once, when a block is done, evaluated or saved."""

    def __init__(self, moment: str, run: Path, what: str) -> None:
        self.run, self.what, self.step = run, what, 0
        setattr(self, moment, self.act)

    def act(self, *given: object) -> None:
        if self.step:
            return
        self.step = 1
        if self.what == "removed":
            shutil.rmtree(self.run)
            return
        self.run.rename(self.run.with_name("elsewhere"))
        if self.what == "replaced":
            self.run.mkdir()
            for name in (".lock", "run.toml", "metrics.jsonl"):
                (self.run / name).write_text("another's")
            (self.run / "checkpoints").mkdir()


@pytest.mark.parametrize("moment", ["progress", "evaluated", "saved"])
@pytest.mark.parametrize("what", ["moved", "removed", "replaced"])
def test_the_run_is_saved_elsewhere_and_named(config: Config, tmp_path: Path, what: str, moment: str) -> None:
    run, beside = tmp_path / "run", tmp_path / "run-moved"
    if moment == "saved":
        config = config.replace(run={"checkpoint_every": 50})
    with pytest.raises(MachineError, match=f"no longer the folder of this run.*--resume --out {beside}$") as error:
        train(config, run, callbacks=Interrupt(moment, run, what))
    assert error.value.code == "E_MOVED"
    saved = checkpoint.read(beside)
    assert f"step {saved.step} is saved in a new folder, {beside}," in str(error.value)
    if what == "replaced":
        assert sorted(entry.name for entry in run.rglob("*")) == [".lock", "checkpoints", "metrics.jsonl", "run.toml"]
        assert {entry.read_text() for entry in run.iterdir() if entry.is_file()} == {"another's"}
    else:
        assert not run.exists()
    train(RunFolder(beside).config(), beside, resume=True)
    train(config, tmp_path / "undisturbed")
    ours, theirs = (checkpoint.read(path, "last").tensors() for path in (beside, tmp_path / "undisturbed"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_folder_in_place_is_known(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.is_in_place()  # nothing is held
    with folder.lock():
        assert folder.is_in_place()
        folder.path.rename(tmp_path / "moved")
        assert not folder.is_in_place()
        shutil.copytree(tmp_path / "moved", folder.path)
        assert not folder.is_in_place()
        shutil.rmtree(folder.path)
        (tmp_path / "moved").rename(folder.path)
        assert folder.is_in_place()


def test_a_second_move_finds_a_new_name(config: Config, tmp_path: Path) -> None:
    (tmp_path / "run-moved").mkdir()
    with pytest.raises(MachineError, match=r"run-moved-2$"):
        train(config, tmp_path / "run", callbacks=Interrupt("progress", tmp_path / "run", "moved"))
    assert list((tmp_path / "run-moved").iterdir()) == []
