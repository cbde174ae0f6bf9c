"""Scenarios: the sizes that their originals have, and that each can be trained by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.config import Config
from microgpt.errors import UsageError
from microgpt.model import n_params
from microgpt.scenarios import SIZES, expected, scenario, scenarios
from microgpt.training.prepare import prepare

# What the originals state, or what follows from their shapes where they are wrong.
PARAMETERS = {
    "names": 4_192,
    "names_kgx": 4_064,
    "vidya_1": 5_888,
    "vidya_2": 5_888,
    "vidya_3": 5_888,
    "vidya_4a": 5_888,
    "vidya_4b": 5_632,
    "vidya_5": 206_848,
    "vidya_6": 206_848,
    "vidya_7": 206_848,
    "vidya_8": 206_848,
    "vidya_9": 232_448,
    "vidya_10": 1_328_128,
    "enneads": 1_253_888,
    "bible_char": 124_928,
    "bible_word": 1_972_864,
    "bible_bpe": 293_888,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    assert n_params(Config.of(name).with_vocab(expected(name)["vocab_size"]).model) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["alice", "alice_v2"])
def test_alice_has_kgx_size_at_kgx_vocabulary(name: str) -> None:
    """kgx counts the byte order mark as a character, and keeps Project Gutenberg's header."""
    assert n_params(Config.of(name).with_vocab(87).model) == 34_240


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_every_scenario_states_what_to_expect(name: str) -> None:
    assert expected(name).keys() >= {"vocab_size", "tokens_per_step"}


@pytest.mark.parametrize("name", sorted(set(scenarios()) - {"pydocs"}))
def test_every_scenario_prepares(name: str, real_data: Callable[[str], Path]) -> None:
    config = Config.of(name)
    if not config.data.dataset:
        with pytest.raises(UsageError, match="--data"):
            prepare(config)
        return
    real_data(config.data.dataset)
    setup = prepare(config)
    assert setup.config.model.vocab_size == expected(name)["vocab_size"]
    per_step = setup.rows_per_step * setup.corpus.mean_row(setup.config.model.block_size)
    assert per_step == pytest.approx(expected(name)["tokens_per_step"], rel=0.02)


def test_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenarios", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows.keys() == scenarios().keys()
    assert rows["vidya_10"]["n_params"] == 1_328_128
    assert all(row["seconds"] > 0 for row in rows.values())
    assert list(rows).index("vidya_9") < list(rows).index("vidya_10")
    assert main(["scenarios"]) == 0
    assert "1,328,128" in capsys.readouterr().out


@pytest.mark.parametrize(("columns", "descriptions"), [(60, False), (80, True), (120, True)])
def test_the_list_fits_a_narrow_terminal(
    columns: int, descriptions: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["scenarios"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    cells = [line.split() for line in lines]
    assert [cell[:3] for cell in cells if cell[0] == "shakespeare_10m"] == [["shakespeare_10m", "10,667,520", "5,000"]]
    assert ("about" in cells[0]) == descriptions
    assert descriptions or not any("…" in line for line in lines)


def test_the_size_dial(tmp_path: Path) -> None:
    from microgpt.commands.flags import resolve

    text = tmp_path / "a.txt"
    text.write_text("one\n")
    sizes = [resolve(str(text), None, {}, name).with_vocab(65) for name in SIZES]
    counts = [n_params(config.model) for config in sizes]
    assert counts == sorted(counts)
    rates = [config.optim.learning_rate for config in sizes]
    assert rates == sorted(rates, reverse=True)
    mixed = resolve(str(text), None, {"model": {"n_embd": 32}, "run": {"batch_size": 3}}, "small")
    assert (mixed.model.n_layer, mixed.model.n_embd, mixed.run.batch_size) == (4, 32, 3)
    with pytest.raises(UsageError, match="did you mean small"):
        resolve(str(text), None, {}, "smal")


def test_a_later_layer_takes_back_what_it_replaces(tmp_path: Path) -> None:
    from microgpt.commands.flags import resolve

    config = resolve("enneads", None, {"data": {"path": "b.txt", "tokenizer": "char"}})
    assert (config.data.dataset, config.data.bpe_merges) == (None, None)
    assert resolve("enneads", None, {"data": {"tokenizer_size": 300}}).data.bpe_merges is None


def test_show_prints_the_file_as_it_is(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for name, path in scenarios().items():
        assert main(["scenarios", "show", name]) == 0
        assert capfdbinary.readouterr().out == path.read_bytes()
    assert main(["scenarios", "show", "shakespear"]) == 2
    assert b"did you mean shakespeare" in capfdbinary.readouterr().err


@pytest.mark.parametrize("name", sorted(scenarios()))
def test_a_copy_of_a_scenario_is_the_scenario(name: str, tmp_path: Path) -> None:
    from microgpt.commands.flags import resolve

    copy = tmp_path / f"{name}.toml"
    copy.write_bytes(scenarios()[name].read_bytes())
    flags = {} if "dataset" in scenario(name)["data"] else {"data": {"path": "text.jsonl"}}
    assert resolve(None, copy, flags) == resolve(name, None, flags)
    mine = copy.rename(tmp_path / "mine.toml")
    assert resolve(None, mine, flags).name == "mine"
    assert resolve(name, mine, flags) == resolve(name, None, flags)


def test_a_configuration_without_text_goes_over_names(tmp_path: Path) -> None:
    from microgpt.commands.flags import resolve

    short = tmp_path / "short.toml"
    short.write_text("[run]\nsteps = 5\n")
    config = resolve(None, short, {"run": {"seed": 1}})
    assert (config.name, config.data.dataset, config.run.steps, config.run.seed) == ("names", "names", 5, 1)


def test_two_texts_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from microgpt.commands.flags import resolve

    text, other, config = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.toml"
    text.write_text("one\n")
    config.write_text(f"[data]\npath = {json.dumps(str(text))}\n")
    assert resolve(str(text), config, {}).data.path == str(text)
    assert resolve("alice", config, {}).data.path == str(text), "a scenario's text is replaced"
    assert resolve(None, config, {"data": {"path": "flag.txt"}}).data.path == "flag.txt", "flags go over the file"
    other.write_text("two\n")
    assert main(["train", str(other), "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"data.path and SOURCE {other}: each names the text to train on" in said
    assert said.count("\n") == 1
    for line in ('dataset = "names"', 'dataset = "names"\npath = "a.txt"'):
        config.write_text(f"[data]\n{line}\n")
        assert main(["train", str(text), "--config", str(config)]) == 2
        assert "each names the text to train on" in capsys.readouterr().err
    assert main(["train", "--config", str(config)]) == 2
    assert "data.path and data.dataset: each names the text" in capsys.readouterr().err
