"""Several models as one: the mean of their probabilities, their measure, and models that do not go together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.config import Config
from microgpt.errors import CheckpointError
from microgpt.feed import pack
from microgpt.inference.evaluate import held_out_loss
from microgpt.inference.language_model import LanguageModel
from microgpt.training.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("ensemble")
    (folder / "names.txt").write_text("em\nemma\nolivia\nava\nmia\n" * 5)
    paths = []
    for seed, block, more in ((1, 16, {}), (2, 8, {}), (3, 16, {"split_seed": 7})):
        data = {"path": str(folder / "names.txt"), "val_fraction": 0.2, **more}
        run = {"steps": 30, "samples": 0, "seed": seed, "engine": "manual", "dtype": "float64"}
        config = Config.from_dict({"data": data, "model": {"block_size": block}, "run": run})
        paths.append(folder / str(seed))
        train(config, paths[-1])
    return paths


def test_probabilities_are_the_mean_and_the_context_is_the_shortest(runs: list[Path]) -> None:
    single = [LanguageModel.open(run, engine="manual", dtype="float64") for run in runs]
    model, notes = LanguageModel.open_all(runs, engine="manual", dtype="float64")
    assert model.config.model.block_size == 8
    assert len(notes) == 1
    assert "3/checkpoints/step-00000030 held out other text" in notes[0]
    tokens = [single[0].tokenizer.bos, *single[0].tokenizer.encode("emma").tolist()]
    expected = np.zeros((len(tokens), single[0].tokenizer.vocab_size))
    for one in single:
        logits, _ = one.engine.logits(one.state, np.array(tokens))
        shares = np.exp(logits.astype(np.float64))
        expected += shares / shares.sum(axis=1, keepdims=True) / 3
    whole, _ = model.engine.logits(model.state, np.array(tokens))
    np.testing.assert_allclose(np.exp(whole), expected, rtol=1e-12)
    cache, steps = None, []
    for token in tokens:
        logits, cache = model.engine.logits(model.state, np.array([token]), cache)
        steps.append(logits[0])
    np.testing.assert_allclose(steps, whole, rtol=1e-9)
    feed = pack([tokens, tokens[:3]], [[False] * 2 + [True] * 3, [True] * 3], rows_per_step=2)
    nats = -np.log([*(expected[i, tokens[i + 1]] for i in (1, 2, 3)), *(expected[i, tokens[i + 1]] for i in (0, 1))])
    assert held_out_loss(model.engine, model.state, [feed]) == (pytest.approx(nats.mean()), 5)
    assert LanguageModel.open_all(runs[:1])[0].engine.__class__ is LanguageModel.open(runs[0]).engine.__class__


def test_several_runs_on_the_command_line(runs: list[Path], chat_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(run) for run in runs]
    assert main(["eval", *words[:2], "--json", "--samples", "2"]) == 0
    both = json.loads(capsys.readouterr().out)["loss"]
    single = []
    for word in words[:2]:
        assert main(["eval", word, "--json", "--samples", "0"]) == 0
        single.append(json.loads(capsys.readouterr().out)["loss"])
    assert both < sum(single) / 2, "the logarithm of a mean is above the mean of logarithms"
    assert main(["generate", *words, "-n", "3", "--seed", "1"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "note    " in printed.err
    assert main(["generate", words[0], str(chat_run)]) != 0
    assert "its tokenizer is not that of" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="an ensemble needs one"):
        LanguageModel.open_all([runs[0], chat_run])
    assert main(["chat", str(chat_run), str(chat_run), "-p", "hi", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip()
