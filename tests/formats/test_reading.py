"""How a text is read travels with a model: the same weights give the same bits per byte after export and import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.cli import main
from microgpt.config import READING, Config, Data
from microgpt.formats import export
from microgpt.formats.imports import import_model
from microgpt.runs import checkpoint
from microgpt.training.train import train

TEXT = "the cat sat on a mat.\n\nand then it\nleft, as cats do. " * 6
DATA = {"format": "chunks", "chunk_size": 12, "chunk_overlap": 3, "fold_whitespace": False, "trailing_bos": False}
MODELS = {
    "classic": {"family": "classic", "tie_embeddings": False},
    "modern": {"family": "modern"},
    "nanochat": {"family": "nanochat", "norm_embedding": True},
}
WAYS = [("safetensors", "classic"), ("kgx", "classic"), ("moonbase", "classic"), ("hf", "modern"), ("hf", "nanochat")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each family on one text, and another text, other.txt."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    (folder / "other.txt").write_text(TEXT[7:150])
    for name, model in MODELS.items():
        sections = {
            "model": {**model, "block_size": 16, "n_embd": 8, "n_head": 2},
            "data": {"path": str(folder / "text.txt"), **DATA},
            "run": {"steps": 3, "samples": 0, "engine": "manual", "dtype": "float64"},
        }
        train(Config.from_dict(sections), folder / name)
    return folder


def measured(capsys: pytest.CaptureFixture[str], model: Path, text: Path, *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    command = ["eval", str(model), "--data", str(text), "--engine", "manual", "--samples", "0"]
    assert main([*command, "--json", *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert main([*command, *flags]) == 0
    assert f"read as{' ' * 32}{found['read_as']}\n" in capsys.readouterr().out
    return found


@pytest.mark.parametrize(("to", "family"), WAYS)
def test_the_same_weights_give_the_same_bits_per_byte(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, family: str
) -> None:
    ours = measured(capsys, runs / family, runs / "other.txt")
    assert ours["format"] == "chunks"
    assert ours["read_as"] == "chunks of 12 characters, 3 of them shared with the next, no BOS at the end of each"
    out = export(runs / family, to, tmp_path / ("model.json" if to == "kgx" else "model")).path
    back = out if to == "safetensors" else import_model(out, tmp_path / "back").path
    theirs = measured(capsys, back, runs / "other.txt")
    assert [theirs[key] for key in ("read_as", "documents", "bytes", "tokens")] == [
        ours[key] for key in ("read_as", "documents", "bytes", "tokens")
    ]
    assert theirs["bits_per_byte"] == pytest.approx(ours["bits_per_byte"], rel=1e-5)
    again = export(back, to, tmp_path / ("again.json" if to == "kgx" else "again")).path
    then = again if to == "safetensors" else import_model(again, tmp_path / "twice").path
    assert checkpoint.read(then).config.data.reading == DATA


def test_format_overrides_that_of_the_model(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, runs / "classic", runs / "other.txt", "--format", "lines")
    assert (found["format"], found["read_as"]) == ("lines", "lines, no BOS at the end of each")
    assert found["documents"] == sum(map(bool, (runs / "other.txt").read_text().split("\n")))
    for flags, said in (
        (["--format", "lines"], "--format: the run's own text is read as it was trained on"),
        (["--format", "line", "--data", "x"], "--format: must be one of auto, lines, paragraphs"),
    ):
        assert main(["eval", str(runs / "classic"), *flags]) == 2
        assert said in capsys.readouterr().err


def test_a_file_states_how_texts_are_read_and_nothing_else(runs: Path, tmp_path: Path) -> None:
    """Never where a text lies: a model of another program must not name files of this machine."""
    from microgpt.errors import CheckpointError

    path = export(runs / "classic", "kgx", tmp_path / "model.json").path
    content = json.loads(path.read_text())
    assert content["microgpt_data"] == DATA
    for data, said in (
        ({"path": "/etc/passwd"}, "microgpt_data says how texts are read"),
        ([], "microgpt_data says how texts are read"),
        ({"chunk_size": -1}, "chunk_size"),
    ):
        path.write_text(json.dumps({**content, "microgpt_data": data}))
        with pytest.raises(CheckpointError, match=said):
            import_model(path, tmp_path / "out")


def test_every_key_of_data_is_one_of_reading_or_of_the_place_and_the_split() -> None:
    elsewhere = {"dataset", "path", "tokenizer", "tokenizer_size", "tokenizer_sample", "bpe_merges", "drop_duplicates"}
    elsewhere |= {"tokenizer_on", "val_path", "val_fraction", "val_split", "split_seed"}
    assert set(Data.model_fields) - elsewhere == READING
