"""JSON as its standard has it: no NaN and no infinity, each key once, and no halves of characters. The one place that
writes JSON (tests/test_banned.py)."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair, which UTF-8 does not have
HUGE = re.compile(r"[eE]\+?[0-9]{3}")  # in a text whose numbers may be larger than a float; or so many digits:
MANY, SAME = "0" * 200, str.maketrans("123456789", "0" * 9)


def dumps(value: Any, **options: Any) -> str:
    """JSON in one line unless `indent` is given; `options` are those of json.dumps. Halves of characters are escaped.

    Raises ValueError for a number that is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    return text if text.isascii() else HALF.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def finite(value: Any) -> Any:
    """A value for `dumps` with None in place of each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def loads(text: str) -> Any:
    """The value of a text. Raises ValueError; RecursionError for one that is nested too deeply."""
    huge = HUGE.search(text) or MANY in text.translate(SAME)
    hooks: dict[str, Any] = {"parse_float": _number} if huge else {}
    value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse, **hooks)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # raises for half a character
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON parser (its object_pairs_hook). Raises ValueError for a key that occurs twice."""
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:40]!r} occurs twice; keep one of them")
    return out


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is larger than any number")
    return value
