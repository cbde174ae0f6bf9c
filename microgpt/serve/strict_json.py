"""JSON as RFC 8259 has it, and no more: what parsers let through in different ways is refused by name."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from microgpt.files import unique_keys
from microgpt.serve.limits import LIMITS, most

DEPTH = most("json_depth")
LEAST, MOST = int(LIMITS["json_integer"].least), int(LIMITS["json_integer"].most)


class JsonError(ValueError):
    """A body that is not strict JSON. `kind` is "syntax", "duplicate" or "integer", `param` the field if known."""

    def __init__(self, message: str, kind: str = "syntax", param: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.param = kind, param


def parse(body: bytes) -> Any:
    """The value of a body. Raises JsonError.

    Refused are: text that is not UTF-8, NaN and Infinity, numbers that a double cannot hold, integers beyond 64 bits,
    keys that occur twice, half surrogate pairs, more than 64 levels, and text after the value.
    """
    if not body.strip():
        raise JsonError("the body is empty; expected JSON")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise JsonError(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise JsonError(_TOO_DEEP) from None
    except JsonError:
        raise
    except ValueError:  # of int(), for thousands of digits
        raise JsonError("the body has an integer of too many digits", "integer") from None
    _check(value)
    return value


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
    """Look at every value, level by level. Raises JsonError."""
    level: list[tuple[str | None, Any]] = [(None, value)]
    for _ in range(DEPTH + 1):
        deeper: list[tuple[str | None, Any]] = []
        for param, container in level:
            items = container.items() if isinstance(container, dict) else ((None, v) for v in _values(container))
            for key, item in items:
                name = param or key
                if key is not None:
                    _text(key, name)
                if isinstance(item, str):
                    _text(item, name)
                elif isinstance(item, (list, dict)):
                    if item:
                        deeper.append((name, item))
                elif isinstance(item, float):
                    if not math.isfinite(item):
                        raise JsonError("the body has a number that is too large", param=name)
                elif isinstance(item, int) and not LEAST <= item <= MOST:
                    raise JsonError("an integer is beyond 64 bits", "integer", name)
        if not deeper:
            return
        level = deeper
    raise JsonError(_TOO_DEEP)


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(text: str, param: str | None) -> None:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise JsonError(f"character {error.start + 1} of a text is half a surrogate pair", param=param) from None
