"""JSON as RFC 8259 has it, and no more: what parsers let through in different ways is refused by name."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Collection, Iterator
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


def parse(body: bytes) -> Any:
    """The value of a body. Raises JsonError.

    Refused are: text that is not UTF-8, NaN and Infinity, numbers that a double cannot hold, integers beyond 64 bits,
    keys that occur twice, half surrogate pairs, more than 64 levels, and text after the value.
    """
    if not body.strip():
        raise JsonError("the body is empty; expected JSON")
    try:
        with _without_collector():
            value = _loads(body.decode("utf-8"))
            _check(value)
    except UnicodeDecodeError as error:
        raise JsonError(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise JsonError(_TOO_DEEP) from None
    return value


def _loads(text: str) -> Any:
    hooks: dict[str, Any] = {"object_pairs_hook": _unique, "parse_constant": _constant}
    try:
        return json.loads(text, **hooks)
    except (json.JSONDecodeError, JsonError):
        raise
    except ValueError:  # of int(), for thousands of digits; _check then names the field
        return json.loads(text, **hooks, parse_int=lambda digits: int(digits) if len(digits) <= LONGEST else MOST + 1)


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
        name = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise JsonError(f"the body is not strict JSON: {error}", "duplicate", name) from None


def _constant(name: str) -> NoReturn:
    raise JsonError(f"the body is not JSON: {name} is no number of JSON")


def _check(value: Any) -> None:
    """Look at every value, level by level, each with the field that it belongs to. Raises JsonError."""
    level: list[tuple[str | None, Any]] = [(None, [value])]
    for _ in range(DEPTH + 1):
        deeper: list[tuple[str | None, Any]] = []
        for field, container in level:
            if isinstance(container, list):
                _values(container, field, deeper)
            elif field is not None:
                _text("".join(container), field)
                _values(container.values(), field, deeper)
            else:
                for key, item in container.items():
                    _text(key, key)
                    _values([item], key, deeper)
        if not deeper:
            return
        level = deeper
    raise JsonError(_TOO_DEEP, param=level[0][0])


def _values(values: Collection[Any], field: str | None, deeper: list[tuple[str | None, Any]]) -> None:
    """Check texts and numbers, all of a type in one call; arrays and objects are checked with the next level."""
    for kind in set(map(type, values)):
        found: list[Any] = [value for value in values if type(value) is kind]
        if kind is str:
            _text("".join(found), field)
        elif kind is float and not all(map(math.isfinite, found)):
            raise JsonError("a number is too large", param=field)
        elif kind is int and not LEAST <= min(found) <= max(found) <= MOST:
            raise JsonError("an integer is beyond 64 bits", "integer", field)
        elif kind in (list, dict):
            deeper.extend((field, container) for container in found)


def _text(text: str, param: str | None) -> None:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise JsonError("a text has half a surrogate pair", param=param) from None
