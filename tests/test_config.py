from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from microgpt.config import SECTIONS, Config, merge
from microgpt.errors import UsageError
from microgpt.scenarios import scenario, scenarios


def test_toml_round_trip(tmp_path: Path) -> None:
    config = Config.of("names", model={"family": "modern", "softcap": 15.0}, run={"seed": 0})
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert Config.from_toml(path) == config


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": {"n_embd": 10}}, "n_embd must be divisible by n_head, got 10 and 4"),
        ({"model": {"n_layer": 0}}, "model.n_layer: must be greater than 0, got 0"),
        ({"model": {"n_layer": -1}}, "model.n_layer: must be greater than 0, got -1"),
        ({"model": {"n_layer": 1.5}}, "model.n_layer: must be a valid integer, got 1.5"),
        ({"model": {"n_layre": 1}}, "model.n_layre: there is no such key; did you mean n_layer"),
        ({"modle": {}}, "modle: there is no such key; did you mean model"),
        ({"model": {"position": "rope", "n_head": 16}}, "RoPE needs an even head size"),
        ({"model": {"activation": "swish"}}, "model.activation: must be 'relu', 'relu2' or 'gelu', got 'swish'"),
        ({"optim": {"learning_rate": float("nan")}}, "optim.learning_rate: must be"),
        ({"optim": {"learning_rate": 0.1, "min_learning_rate": 0.2}}, "min_learning_rate must not exceed"),
        ({"optim": {"beta1": 1.0}}, "optim.beta1: must be less than 1, got 1.0"),
        ({"run": {"steps": 0}}, "run.steps: must be greater than 0, got 0"),
        ({"run": {"dtype": "float16"}}, "run.dtype: must be"),
        ({"model": 3}, "model: "),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        Config.from_dict(given, "here")
    assert str(caught.value).startswith("here: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_later_layers_win() -> None:
    low = {"model": {"n_embd": 32, "activation": "gelu"}, "run": {"steps": 5}}
    config = Config.from_dict(merge(low, {"model": {"n_embd": 64}}))
    assert (config.model.n_embd, config.model.activation, config.run.steps) == (64, "gelu", 5)


def test_a_family_sets_what_is_not_given_beside_it() -> None:
    modern = Config.from_dict({"model": {"family": "modern", "activation": "gelu"}}).model
    assert (modern.position, modern.rope_pairs, modern.final_norm, modern.qk_norm) == ("rope", "half", True, False)
    assert modern.activation == "gelu"
    back = Config.from_dict(merge({"model": modern.model_dump(exclude_none=True)}, {"model": {"family": "classic"}}))
    assert (back.model.position, back.model.activation, back.model.final_norm) == ("learned", "relu", False)


def test_every_scenario_is_a_configuration() -> None:
    assert "names" in scenarios()
    for name in scenarios():
        assert Config.of(name).name == name
        assert Config.of(name).description


def test_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean names"):
        scenario("nmaes")


def test_every_key_has_a_description_and_one_section() -> None:
    fields = [item for section in SECTIONS.values() for item in section.model_fields.items()]
    names = [key for key, _ in fields]
    assert len(names) == len(set(names)), "a key in two sections could not be a flag"
    assert all(field.description for _, field in fields)


def _limits(name: str, key: str) -> dict[str, Any]:
    """The JSON schema of a key that is a number; empty for another."""
    found = SECTIONS[name].model_json_schema()["properties"][key]
    numbers = [each for each in found.get("anyOf", [found]) if each.get("type") in ("integer", "number")]
    return numbers[0] if numbers else {}


NUMBERS = [(name, key) for name, section in SECTIONS.items() for key in section.model_fields if _limits(name, key)]


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_every_number_has_an_upper_limit(name: str, key: str) -> None:
    limits = _limits(name, key)
    assert limits.keys() & {"maximum", "exclusiveMaximum"}, limits
    assert limits.keys() & {"minimum", "exclusiveMinimum"}, limits
    for value in (float("inf"), float("-inf"), float("nan"), 2**63, 2**64, 10**400, -1, 1e308):
        with pytest.raises(UsageError, match=rf"{name}\.{key}: must be") as caught:
            Config.from_dict({name: {key: value}})
        assert len(str(caught.value)) < 250
