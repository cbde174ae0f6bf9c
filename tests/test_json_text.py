from __future__ import annotations

import json
import math

import pytest

from microgpt import json_text


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"a": {"b": math.nan}}])
def test_a_number_that_is_not_finite_is_not_written(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text.dumps(value)
    json.loads(json_text.dumps(json_text.finite(value)), parse_constant=pytest.fail)


def test_finite_changes_nothing_else() -> None:
    value = {"a": [1, 2.5, None, True, "NaN", 10**400], "b": {"c": 1e308}}
    assert json_text.finite(value) == value
    assert json_text.finite((math.inf, 1.0)) == [None, 1.0]


def test_half_a_character_is_escaped() -> None:
    assert json_text.dumps(["é\udcffx"]) == '["é\\udcffx"]'
    assert json.loads(json_text.dumps("\ud83d")) == "\ud83d"


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", "1e400", "-1E+999", "[0.5, 1e0309]", "9" * 250 + "e99", '{"a": 1, "a": 2}', '"\\ud800"'],
)
def test_what_json_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|number|twice|surrogates"):
        json_text.loads(text)


@pytest.mark.parametrize("text", ["1e308", "1e-400", "[0.1, 5e-324]", "1e-999", '"1e999"', '"\\ud83d\\ude00"'])
def test_all_else_is_read(text: str) -> None:
    assert json_text.loads(text) == json.loads(text)
