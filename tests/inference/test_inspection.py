"""A loaded model looked inside: the same numbers as its engine's, the lens, and neurons on sample texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.config import Config, Optim
from microgpt.data.sample import sample_rows
from microgpt.engines.ladder import inspecting
from microgpt.errors import DataError, UsageError
from microgpt.inference import neurons
from microgpt.inference.inspection import Inspector, lens, likeliest, probabilities, stages
from microgpt.inference.interventions import Change
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.neurons import Firing, effect
from microgpt.model import init_weights
from tests.engines.ladder import CASES, small


@pytest.fixture(scope="module")
def names(names_run: Path) -> Inspector:
    return Inspector(LanguageModel.open(names_run))


def test_the_model_shown_is_the_model_that_generates(names: Inspector) -> None:
    tokens, _ = names.source.encode("emma")
    shown = names.activations(tokens)["logits"]
    logits, _ = names.source.engine.logits(names.source.state, np.array(tokens))
    np.testing.assert_allclose(shown, logits, rtol=0, atol=1e-5)


def test_an_intervention_changes_a_copy(names: Inspector) -> None:
    tokens, _ = names.source.encode("ol")
    before = names.activations(tokens)["logits"].copy()
    off = names.activations(tokens, [Change("layer", 0)])
    np.testing.assert_array_equal(off["layer0.after_mlp"], off["embedding"])
    np.testing.assert_array_equal(names.activations(tokens)["logits"], before)
    with pytest.raises(UsageError, match="layer 1 does not exist"):
        names.activations(tokens, [Change("layer", 1)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["classic", "modern", "nanochat", "tied", "softcap", "everything"])
def test_the_lens_ends_at_the_models_own_logits_bit_for_bit(case: str, dtype: str) -> None:
    model = small(**CASES[case].model)
    engine = inspecting(model, Optim(), dtype)
    weights = {name: a.astype(dtype) for name, a in init_weights(model, Random(1)).items()}
    assert engine.inspect
    found = engine.inspect(engine.load(weights), np.arange(model.block_size))
    *_, last = stages(model)
    assert set(stages(model)) <= set(found)
    np.testing.assert_array_equal(lens(model, weights, found[last]), found["logits"])
    p = probabilities(found["logits"])
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    assert (p.argmax(-1) == found["logits"].argmax(-1)).all()


def test_likeliest_is_sorted_and_complete() -> None:
    p = np.random.default_rng(0).random((7, 11))
    np.testing.assert_array_equal(likeliest(p, 4), np.argsort(-p, axis=-1)[:, :4])
    assert likeliest(p, 99).shape == (7, 11)
    assert likeliest(np.zeros((1, 3)), 3).tolist() == [[0, 1, 2]]


def test_neurons_fire_where_they_are_said_to(names: Inspector) -> None:
    firing = Firing(names)
    assert firing.source == "data"
    texts = {tuple(text) for text in firing.texts}
    values = np.concatenate([names.activations(text)["layer0.mlp"][1:] for text in firing.texts])
    np.testing.assert_array_equal(firing.peaks[:, 0].max(0), values.max(0))
    np.testing.assert_allclose(firing.share[0], (values > 0).mean(0), rtol=1e-12)
    neuron = int(firing.peaks[:, 0].max(0).argmax())
    examples = firing.examples(0, neuron, 3)
    assert len({tuple(each.tokens) for each in examples}) == len(examples) == min(3, len(texts))
    peaks = [each.values[each.peak] for each in examples]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == values[:, neuron].max()
    for each in examples:
        np.testing.assert_array_equal(each.values, names.activations(each.tokens)["layer0.mlp"][:, neuron])


def test_a_neurons_effect_is_the_difference_that_it_makes(names: Inspector) -> None:
    """Without a final norm and a cap, the logits change by the neuron's value times its effect."""
    tokens, _ = names.source.encode("em")
    before, after = names.activations(tokens), names.activations(tokens, [Change("neuron", 0, 5)])
    expected = -before["layer0.mlp"][:, 5:6] * effect(names, 0, 5)
    np.testing.assert_allclose(after["logits"] - before["logits"], expected, rtol=0, atol=1e-5)


def test_without_its_data_a_model_is_shown_on_its_own_texts(names: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons, "GENERATED_POSITIONS", 60)
    config = names.source.config
    gone = config.model_copy(update={"data": config.data.model_copy(update={"path": "/nowhere/gone.txt"})})
    inspector = Inspector(dataclasses.replace(names.source, config=gone))
    firing = Firing(inspector)
    assert firing.source == "generated"
    assert firing.texts
    assert Firing(inspector).texts == firing.texts


def test_rows_of_conversations_are_those_of_training(chat_run: Path) -> None:
    model = LanguageModel.open(chat_run)
    data = model.config.data
    rows = sample_rows(data, model.tokenizer, 64, 500)
    assert sum(map(len, rows[:-1])) < 500 <= sum(map(len, rows))
    assert all(row[0] == model.tokenizer.bos and len(row) <= 64 for row in rows)
    assert "hello there" in "".join(model.tokenizer.decode(row) for row in rows)


def test_a_sample_downloads_nothing(names_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = LanguageModel.open(names_run).tokenizer
    monkeypatch.setenv("MICROGPT_DATA_DIR", "/nowhere")
    monkeypatch.setattr("microgpt.data.datasets.cache_folder", lambda: Path("/nowhere"))
    rows = sample_rows(Config.from_dict({"data": {"dataset": "names"}}).data, tokenizer, 16, 100)
    assert rows, "the package's own list of names"
    with pytest.raises(DataError, match="not on this machine"):
        sample_rows(Config.from_dict({"data": {"dataset": "shakespeare"}}).data, tokenizer, 16, 100)
    with pytest.raises(UsageError):
        sample_rows(Config.from_dict({}).data, tokenizer, 16, 100)
