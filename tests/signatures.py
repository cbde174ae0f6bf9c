"""The arguments of each command are read from its signature once per process, not at each call of `main`.

The suite calls `main` some thousand times; four fifths of a call of `train` were spent on reading its signature and on
checking the defaults of flags that were not given. Tests that start a process of their own run without this.
"""

from __future__ import annotations

import copy
from typing import Any

from cyclopts.argument import Argument, ArgumentCollection

_read = ArgumentCollection._from_callable.__func__  # type: ignore[attr-defined]
_check = Argument.validate
_known: dict[Any, ArgumentCollection] = {}
_sound: set[int] = set()  # the fields, alive in _known, whose default was found valid


def _from_callable(cls: Any, function: Any, *default: Any, parse_docstring: bool = True, **options: Any) -> Any:
    key = function, parse_docstring, options.get("_resolve_groups", True)
    if key not in _known:
        _known[key] = _read(cls, function, *default, parse_docstring=parse_docstring, **options)
    fresh = {id(argument): copy.copy(argument) for argument in _known[key]}
    for argument in fresh.values():  # nothing is parsed into those that are kept
        argument.tokens = []
        argument.children = ArgumentCollection(fresh[id(child)] for child in argument.children)
    return ArgumentCollection(fresh.values())


def _validate(self: Argument, value: Any) -> Any:
    if value is not self.field_info.default:
        return _check(self, value)
    if id(self.field_info) not in _sound:
        _check(self, value)
        _sound.add(id(self.field_info))
    return value


ArgumentCollection._from_callable = classmethod(_from_callable)  # type: ignore[assignment, method-assign]
Argument.validate = _validate  # type: ignore[method-assign]
