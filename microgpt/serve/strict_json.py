"""JSON as RFC 8259 has it, and no more: what parsers let through in different ways is refused by name."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn

from microgpt.json_text import unique_keys
from microgpt.serve.limits import LIMITS, most

DEPTH = most("json_depth")
LEAST, MOST = int(LIMITS["json_integer"].least), int(LIMITS["json_integer"].most)
LONGEST = len(str(MOST))  # digits of an integer, which has no leading zeros


class JsonError(ValueError):
    """A body that is not strict JSON. `kind` is "syntax", "duplicate" or "integer", `param` the field if known."""

    def __init__(self, message: str, kind: str = "syntax", param: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.param = param and param.encode("utf-8", "backslashreplace").decode()  # a key may have half a character


class Repeated:
    """The value of a key that occurs twice, where that is not refused: a value that no field takes."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values


def parse(body: bytes, *, lenient: bool = False) -> Any:
    """The value of a body. Raises JsonError.

    Refused are: text that is not UTF-8, NaN and Infinity, numbers that a double cannot hold, integers beyond 64 bits,
    keys that occur twice, half surrogate pairs, more than 64 levels, and text after the value. `lenient` is for shapes
    whose unknown fields are ignored: an integer may have any size, and a key that occurs twice is `Repeated`.
    """
    if not body.strip():
        raise JsonError("the body is empty; expected JSON")
    try:
        with _without_collector():
            value = _loads(body.decode("utf-8"), _repeated if lenient else _unique)
            _check(value, lenient)
    except UnicodeDecodeError as error:
        raise JsonError(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise JsonError(_TOO_DEEP) from None
    return value


def _loads(text: str, object_of: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> Any:
    hooks: dict[str, Any] = {"object_pairs_hook": object_of, "parse_constant": _constant}
    try:
        return json.loads(text, **hooks)
    except (json.JSONDecodeError, JsonError):
        raise
    except ValueError:  # of int(), for thousands of digits; _check then names the field
        return json.loads(text, **hooks, parse_int=_integer)


def _integer(digits: str) -> int:
    if len(digits) > LONGEST:
        return LEAST - 1 if digits.startswith("-") else MOST + 1
    return int(digits)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Within the block no cycles are looked for: a million new lists would be visited again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_TOO_DEEP = f"the body nests arrays and objects more than {DEPTH} deep"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique_keys(pairs)
    except ValueError as error:
        raise JsonError(f"the body is not strict JSON: {error}", "duplicate", _twice(pairs)[0]) from None


def _repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        values: dict[str, list[Any]] = {name: [] for name in _twice(pairs)}
        for name, value in pairs:
            if name in values:
                values[name].append(value)
        found |= {name: Repeated(each) for name, each in values.items()}
    return found


def _twice(pairs: list[tuple[str, Any]]) -> list[str]:
    """The keys that occur more than once, the most frequent first."""
    return [name for name, count in Counter(name for name, _ in pairs).most_common() if count > 1]


def _constant(name: str) -> NoReturn:
    raise JsonError(f"the body is not JSON: {name} is no number of JSON")


def _check(value: Any, lenient: bool) -> None:
    """Look at every value, level by level, each with the field that it belongs to. Raises JsonError."""
    level: list[tuple[str | None, Any]] = [(None, [value])]
    for _ in range(DEPTH + 1):
        deeper: list[tuple[str | None, Any]] = []
        for field, container in level:
            if isinstance(container, list):
                _values(container, field, deeper, lenient)
            elif field is not None:
                _text("".join(container), field)
                _values(container.values(), field, deeper, lenient)
            else:
                for key, item in container.items():
                    _text(key, key)
                    _values([item], key, deeper, lenient)
        if not deeper:
            return
        level = deeper
    raise JsonError(_TOO_DEEP, param=level[0][0])


def _values(values: Collection[Any], field: str | None, deeper: list[tuple[str | None, Any]], lenient: bool) -> None:
    """Check texts and numbers, all of a type in one call; arrays and objects are checked with the next level."""
    for kind in set(map(type, values)):
        found: list[Any] = [value for value in values if type(value) is kind]
        if kind is str:
            _text("".join(found), field)
        elif kind is float and not all(map(math.isfinite, found)):
            raise JsonError("a number is too large", param=field)
        elif kind is int and not lenient and not LEAST <= min(found) <= max(found) <= MOST:
            raise JsonError("an integer is beyond 64 bits", "integer", field)
        elif kind in (list, dict):
            deeper.extend((field, container) for container in found)
        elif kind is Repeated:
            deeper.extend((field, repeated.values) for repeated in found)


def _text(text: str, param: str | None) -> None:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise JsonError("a text has half a surrogate pair", param=param) from None
