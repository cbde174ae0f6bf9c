"""The description of a sweep: axes from files and flags, mistakes in one line, the sets that ship."""

from __future__ import annotations

from typing import Any

import pytest

from microgpt.errors import UsageError
from microgpt.experiments import spec as module
from microgpt.experiments.spec import Span, SweepSpec, parse_axis, read, shipped
from microgpt.scenarios import scenario, scenarios


def test_axes_are_read_from_flags() -> None:
    assert parse_axis("optim.learning_rate=log:1e-4..1e-1") == ("optim.learning_rate", {"log": [1e-4, 1e-1]})
    assert parse_axis("model.n_embd=range:8..64:8") == ("model.n_embd", {"range": [8, 64], "step": 8})
    assert parse_axis("data.tokenizer=char,bpe") == ("data.tokenizer", ["char", "bpe"])
    assert parse_axis("model.final_norm=true,false") == ("model.final_norm", [True, False])
    assert parse_axis("run.steps=60") == ("run.steps", [60])
    for text in ("optim.eps", "optim.eps=", "=1", "optim.eps=log:a..b"):
        with pytest.raises(UsageError, match="--set"):
            parse_axis(text)


def test_tables_may_be_nested_and_a_grid_counts_its_trials() -> None:
    given: dict[str, Any] = {
        "set": {"optim": {"learning_rate": [0.1, 0.2]}, "model.n_layer": [1, 2, 3]},
        "case": [{"name": "a", "model": {"n_embd": 8}}, {"name": "b", "model.n_embd": 16}],
    }
    found = SweepSpec.of(given, "x")
    assert (found.sampler, found.trials) == ("grid", 12)
    combinations = found.combinations()
    assert combinations[0] == {"case": "a", "optim.learning_rate": 0.1, "model.n_layer": 1}
    assert combinations[1]["optim.learning_rate"] == 0.2
    swapped = SweepSpec.of({**given, "set": dict(reversed(given["set"].items()))}, "x")
    assert swapped.fingerprint() == found.fingerprint()
    assert swapped.combinations() == combinations  # whatever the order, since a file sorts it in its own way
    assert len({str(each) for each in combinations}) == 12
    config = found.config(scenario("names"), combinations[-1], 3)
    assert (config.model.n_embd, config.model.n_layer, config.optim.learning_rate) == (16, 3, 0.2)
    assert (config.run.threads, config.run.eval_every) == (3, config.run.steps)
    assert SweepSpec.of({"trials": 5, "set": {"optim.beta2": {"range": [0, 0.9]}}}, "x").sampler == "tpe"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"set": {"optim.learningrate": [1]}}, "did you mean learning_rate"),
        ({"set": {"learning_rate": [1]}}, "with its section"),
        ({"set": {"model.n_embd": [8, "x"]}}, "model.n_embd: must be a valid integer"),
        ({"set": {"optim.schedule": ["linear", "cosinus"]}}, "optim.schedule: must be"),
        ({"set": {"model.n_embd": {"range": [8.5, 16]}}, "trials": 2}, "whole numbers"),
        ({"set": {"data.tokenizer": {"range": [1, 2]}}, "trials": 2}, "takes no numbers"),
        ({"set": {"optim.eps": {"log": [0, 1]}}, "trials": 2}, "above 0"),
        ({"set": {"optim.eps": {"log": [1, 0.1]}}, "trials": 2}, "below the upper"),
        ({"set": {"optim.eps": {"range": [0.1, 0.2]}}}, "trials: say how many"),
        ({"set": {"optim.eps": [0.1, 0.1]}}, "different values"),
        ({"set": {"optim.eps": [0.1]}, "trials": 2, "sampler": "grid"}, "the grid has 1"),
        ({"set": {"data.tokenizer": ["char", "bpe"]}}, "use bits_per_byte"),
        ({"case": [{"name": "a"}, {"name": "a"}]}, "a name of its own"),
        ({"fixed": {"run.steps": 0}}, "run.steps"),
        ({"objectiv": "val_loss"}, "did you mean objective"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=r"^file: ") as error:
        SweepSpec.of(given, "file")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_the_sets_of_tgifriday_ship() -> None:
    counts = {}
    for name, path in shipped().items():
        found = SweepSpec.of(read(path), name)
        base = scenario(found.scenario)
        configs = [found.config(base, each, 1) for each in found.combinations()]
        assert len({config.to_toml() for config in configs}) == found.trials
        counts[name] = found.trials
        assert name not in scenarios()
    assert counts == {"big": 1, "depth": 4, "merges": 4, "tokenizers": 3, "width": 4}
    wide = SweepSpec.of(read(shipped()["width"]), "width").config(scenario("bible_word"), {"case": "256"}, 1)
    assert (wide.model.n_embd, wide.model.n_head, wide.run.batch_size) == (256, 16, 16)


def test_spans_know_their_ends() -> None:
    assert Span(log=(1, 2)).ends == (1, 2)
    assert module.is_whole("model.n_embd")
    assert module.is_whole("data.tokenizer_size")
    assert module.is_real("optim.learning_rate")
    assert not module.is_whole("optim.eps")
