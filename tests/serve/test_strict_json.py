"""Strict JSON: what every parser reads alike is taken, all else refused with the field's name."""

from __future__ import annotations

import json
import time

import pytest

from microgpt.serve.limits import most
from microgpt.serve.strict_json import JsonError, Repeated, parse

DEPTH = most("json_depth")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5e3, "\\u00e9\\ud83d\\ude00", true, null, {}]}',
        "18446744073709551615",
        "-9223372036854775808",
        "1e308",
        " [] ",
        "[" * DEPTH + "]" * DEPTH,
    ],
)
def test_it_is_taken(text: str) -> None:
    assert parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "kind", "param"),
    [
        ('{"a": {"b": [NaN]}}', "syntax", None),
        ('{"a": 1, "a": 1}', "duplicate", "a"),
        ('{"seed": 18446744073709551616}', "integer", "seed"),
        ('{"seed": -9223372036854775809}', "integer", "seed"),
        ('{"x": {"y": [1, 99999999999999999999]}}', "integer", "x"),
        ('{"x": [1e400]}', "syntax", "x"),
        ('{"x": {"y": "\\udfff"}}', "syntax", "x"),
        ('{"x": ' + "[" * DEPTH + "]" * DEPTH + "}", "syntax", "x"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "syntax", None),
        ("[" * 10**6, "syntax", None),
        ("1" * 10**6, "integer", None),
        ('{"n": 1, "seed": [' + "9" * 5000 + "]}", "integer", "seed"),
        ('{"n": 1, "seed": -' + "9" * 5000 + "}", "integer", "seed"),
        ('{"\\ud800": 1}', "syntax", "\\ud800"),
        ('{"a\\udfff": 1, "a\\udfff": 2}', "duplicate", "a\\udfff"),
        ("[1] [2]", "syntax", None),
        ("", "syntax", None),
    ],
)
def test_it_is_refused_by_name(text: str, kind: str, param: str | None) -> None:
    with pytest.raises(JsonError) as caught:
        parse(text.encode())
    assert (caught.value.kind, caught.value.param) == (kind, param)


@pytest.mark.parametrize("lenient", [False, True])
def test_keys_that_occur_twice_take_little_time_too(lenient: bool) -> None:
    """They are found in one pass: 300,000 keys, of which the first or all come again."""
    keys = [f'"{i}":0' for i in range(300_000)]
    for text in ("{" + ",".join([*keys, '"0":1']) + "}", "{" + ",".join(keys[:150_000] * 2) + "}"):
        began = time.process_time()
        if lenient:
            assert isinstance(parse(text.encode(), lenient=True)["0"], Repeated)
        else:
            with pytest.raises(JsonError):
                parse(text.encode())
        assert time.process_time() - began < 5


def test_lenient_takes_what_unknown_fields_may_hold() -> None:
    """All but text that is no JSON, also within the values of a key that occurs twice."""
    large = 10**30
    found = parse(b'{"a": 1, "b": %d, "a": [%d], "c": [{"d": 1, "d": 2}]}' % (large, large), lenient=True)
    assert (found["a"].values, found["b"], found["c"][0]["d"].values) == ([1, [large]], large, [1, 2])
    for text in (
        '{"a": "\\ud800", "a": 1}',
        '{"a": [1e400], "a": 1}',
        '{"a": NaN}',
        '{"a": 1, "a": ' + "[" * DEPTH + "]" * DEPTH + "}",
    ):
        with pytest.raises(JsonError):
            parse(text.encode(), lenient=True)


@pytest.mark.parametrize("unit", ["1,", "[],"])
def test_the_largest_body_takes_little_time(unit: str) -> None:
    text = "[" + unit * ((most("body_bytes") - 2) // len(unit))
    began = time.process_time()
    parse((text[:-1] + "]").encode())
    assert time.process_time() - began < 2
