"""The description of a sweep: a scenario, keys that are fixed, and axes along which others vary.

A file of it is TOML:

    scenario = "names"              # a scenario or a text
    objective = "val_loss"          # or bits_per_byte, where tokenizers differ
    sampler = "tpe"                 # grid (of lists alone), random, or tpe
    trials = 50
    prune = true                    # end trials that are worse than the median of the others
    [fixed]
    run.steps = 500
    [set]                           # the axes
    optim.learning_rate = {log = [1e-4, 1e-1]}
    optim.beta2 = {range = [0.9, 0.999]}
    model.n_embd = [16, 32, 64]
    [[case]]                        # bundles of keys with a name, an axis of their own
    name = "wide"
    model.n_embd = 64
    model.n_head = 8
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import TypeAdapter, ValidationError, field_validator, model_validator

from microgpt import json_text
from microgpt.config import SECTIONS, Config, Section, merge, one_line
from microgpt.errors import UsageError, nearest
from microgpt.files import read_toml
from microgpt.limits import Positive, Seed

CASE = "case"  # the axis of the named bundles
MOST_TRIALS = 100_000
Scalar = bool | int | float | str
Objective = Literal["val_loss", "bits_per_byte"]
Sampler = Literal["grid", "random", "tpe"]


class Span(Section):
    """The axis of a number: from the lowest to the highest value, uniformly or in its logarithm."""

    log: tuple[int | float, int | float] | None = None
    range: tuple[int | float, int | float] | None = None
    step: int | float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.log is None) == (self.range is None):
            raise ValueError("expected {log = [low, high]} or {range = [low, high]}")
        low, high = self.ends
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"the lower end must be below the upper one, got {low} and {high}")
        if self.log and low <= 0:
            raise ValueError(f"a logarithm needs ends above 0, got {low}")
        if self.step is not None and (self.log or not 0 < self.step <= high - low):
            raise ValueError("step: of a range, above 0 and at most its width")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        found = self.log or self.range
        assert found
        return found


class SweepSpec(Section):
    """A sweep, checked: every key exists, and takes every value of its axis."""

    name: str = "sweep"
    scenario: str = "names"
    objective: Objective = "val_loss"
    sampler: Sampler = "grid"
    trials: Positive = 1
    seed: Seed = 1
    prune: bool = False
    fixed: dict[str, Scalar] = {}  # noqa: RUF012 - pydantic copies it
    set: dict[str, list[Scalar] | Span] = {}  # noqa: RUF012
    case: list[dict[str, Scalar]] = []  # noqa: RUF012

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, given: Any) -> Any:
        """`optim.learning_rate` without quotes is a table in a table; the number of a grid's trials is counted."""
        if not isinstance(given, Mapping):
            return given
        out = dict(given)
        for part in ("fixed", "set"):
            if isinstance(out.get(part), Mapping):
                out[part] = _flat(out[part])
        if isinstance(out.get("case"), list):
            out["case"] = [_flat(each) if isinstance(each, Mapping) else each for each in out["case"]]
        if isinstance(out.get("set"), dict):
            out["set"] = {
                key: _span(key, axis) if isinstance(axis, Mapping) else axis for key, axis in out["set"].items()
            }
            out["set"] = dict(sorted(out["set"].items()))  # the same in a file that was written and read back
        axes = out["set"].values() if isinstance(out.get("set"), Mapping) else ()
        lists = all(isinstance(axis, list) for axis in axes)
        out.setdefault("sampler", "grid" if lists and "trials" not in out else "tpe")
        if out["sampler"] == "grid":
            if not lists:
                raise ValueError("sampler: a grid is made of lists; use random or tpe for ranges")
            number = math.prod(map(len, axes)) * len(out.get("case") or [0])
            if out.setdefault("trials", number) != number:
                raise ValueError(f"trials: the grid has {number}, got {out['trials']}; leave it out")
        elif "trials" not in out:
            raise ValueError("trials: say how many")
        return out

    @field_validator("set")
    @classmethod
    def _check_axes(cls, axes: dict[str, list[Scalar] | Span]) -> dict[str, list[Scalar] | Span]:
        for key, axis in axes.items():
            if isinstance(axis, list):
                values: list[Any] = list(axis)
                if not values or len({json_text.dumps(value) for value in values}) != len(values):
                    raise ValueError(f"{key}: expected different values")
            else:
                values = [*axis.ends]
                if not is_whole(key) and not is_real(key):
                    raise ValueError(f"{key}: takes no numbers, so a list of its values is needed")
                if is_whole(key) and not all(float(value).is_integer() for value in (*values, axis.step or 1)):
                    raise ValueError(f"{key}: takes whole numbers")
                values = [int(value) for value in values] if is_whole(key) else values
            for value in values:
                _check_value(key, value)
        return axes

    @field_validator("fixed")
    @classmethod
    def _check_fixed(cls, keys: dict[str, Scalar]) -> dict[str, Scalar]:
        for key, value in keys.items():
            _check_value(key, value)
        return keys

    @field_validator("case")
    @classmethod
    def _check_cases(cls, cases: list[dict[str, Scalar]]) -> list[dict[str, Scalar]]:
        if len({str(case.get("name")) for case in cases}) != len(cases) or not all("name" in case for case in cases):
            raise ValueError("each case needs a name of its own")
        for case in cases:
            for key in case.keys() - {"name"}:
                _check_value(key, case[key])
        return cases

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.trials > MOST_TRIALS:
            raise ValueError(f"trials: at most {MOST_TRIALS:,}, got {self.trials:,}")
        if self.objective == "val_loss" and "data.tokenizer" in {
            *self.set,
            *(key for case in self.case for key in case),
        }:
            raise ValueError("objective: nats per token differ with the tokenizer; use bits_per_byte")
        return self

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str) -> SweepSpec:
        """Check a sweep. Raises UsageError with `where` and the key."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise UsageError(f"{where}: {one_line(error, cls)}", "E_CONFIG") from None

    @property
    def axes(self) -> dict[str, list[Scalar] | Span]:
        """The axes by their names, that of the cases first."""
        cases: list[Scalar] = [str(case["name"]) for case in self.case]
        return ({CASE: cases} if cases else {}) | self.set

    def combinations(self) -> list[dict[str, Scalar]]:
        """The trials of a grid in their order: the last axis varies fastest."""
        lists = [axis for axis in self.axes.values() if isinstance(axis, list)]
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*lists)]

    def layers(self, params: Mapping[str, Scalar]) -> list[dict[str, Any]]:
        """The configuration layers of a trial, to lie over those of the scenario."""
        keys = {key: value for key, value in params.items() if key != CASE}
        case = next((each for each in self.case if each["name"] == params.get(CASE)), {})
        return [_nested(layer) for layer in (self.fixed, {k: v for k, v in case.items() if k != "name"}, keys)]

    def fingerprint(self) -> str:
        """Names the study: what the trials are. Sweeps of several machines must agree on it."""
        told = self.model_dump(exclude={"trials", "prune", "name"})
        return hashlib.sha256(json_text.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def config(self, base: Mapping[str, Any], params: Mapping[str, Scalar], threads: int) -> Config:
        """The configuration of a trial, evaluated at its end at least. Raises UsageError."""
        config = Config.from_dict(merge(base, *self.layers(params)), f"{self.name}, {describe(params)}")
        run: dict[str, Any] = {} if config.run.threads else {"threads": threads}
        if config.run.epochs and not config.run.eval_every:
            raise UsageError(f"{self.name}: run.epochs is set, so run.eval_every is needed as well")
        if not config.run.epochs and not 0 < config.run.eval_every <= config.run.steps:
            run["eval_every"] = config.run.steps
        return config.replace(run=run)


def shipped() -> dict[str, Path]:
    """The sweeps that come with the package, by name."""
    folder = resources.files("microgpt") / "experiments" / "sweeps"
    return {Path(str(f)).stem: Path(str(f)) for f in sorted(folder.iterdir(), key=str) if f.name.endswith(".toml")}


def read(path: Path) -> dict[str, Any]:
    """The content of a sweep's file, unchecked. Raises UsageError."""
    given = read_toml(path)
    if any(section in given for section in SECTIONS):
        raise UsageError(
            f"{path}: a configuration of one run; a sweep has [set], with keys such as optim.learning_rate"
        )
    return {"name": path.stem, **given}


def parse_axis(text: str) -> tuple[str, list[Scalar] | dict[str, Any]]:
    """The key and the axis of `--set KEY=VALUES`. Raises UsageError.

    VALUES are log:LOW..HIGH, range:LOW..HIGH, range:LOW..HIGH:STEP, or one or more values with commas between.
    """
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise UsageError(f"--set {text}: expected KEY=VALUES, such as optim.learning_rate=log:1e-4..1e-1")
    if found := re.fullmatch(r"(log|range):(.+?)\.\.([^:]+)(?::(.+))?", values):
        kind, low, high, step = found.groups()
        numbers = [_scalar(part) for part in (low, high, *([step] if step else []))]
        if any(isinstance(value, str | bool) for value in numbers):
            raise UsageError(f"--set {text}: expected numbers, such as {kind}:0.001..0.1")
        return key, {kind: numbers[:2]} | ({"step": numbers[2]} if step else {})
    return key, [_scalar(part) for part in values.split(",")]


def _scalar(text: str) -> Scalar:
    """A value as TOML reads it, or else the text itself."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


def describe(params: Mapping[str, Any]) -> str:
    """The values of a trial in one line."""
    return ", ".join(f"{key.rpartition('.')[2]} {show(value)}" for key, value in params.items()) or "as the scenario"


def show(value: Any) -> str:
    """A value of an axis in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_whole(key: str) -> bool:
    """Whether a key takes whole numbers alone."""
    return _type(key) is int


def is_real(key: str) -> bool:
    """Whether a key takes real numbers."""
    return _type(key) is float


def _type(key: str) -> Any:
    found = _field(key).annotation
    for _ in range(3):  # X | None, whose X may have limits of its own
        if getattr(found, "__metadata__", None):
            found = found.__origin__  # type: ignore[union-attr]
        elif type(None) in get_args(found):
            found = get_args(found)[0]
    return found


def _field(key: str) -> Any:
    """The field of section.key. Raises ValueError."""
    section, _, name = key.partition(".")
    if section not in SECTIONS:
        raise ValueError(f"{key}: expected a key with its section, one of {', '.join(SECTIONS)}, as in optim.beta2")
    if name not in SECTIONS[section].model_fields:
        raise ValueError(f"{key}: there is no such key; {nearest(name, SECTIONS[section].model_fields)}")
    return SECTIONS[section].model_fields[name]


def _check_value(key: str, value: Scalar) -> None:
    """Raise ValueError for a value that the key does not take, whatever the others are."""
    field = _field(key)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
        adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{key}: {one_line(error).removeprefix(': ')}") from None


def _span(key: str, given: Mapping[str, Any]) -> Span:
    try:
        return Span.model_validate(given)
    except ValidationError as error:
        raise ValueError(f"{key}: {one_line(error, Span).removeprefix(': ')}") from None


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        if key in SECTIONS and isinstance(value, Mapping):
            out |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            out[key] = value
    return out


def _nested(keys: Mapping[str, Scalar]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in keys.items():
        section, _, name = key.partition(".")
        out.setdefault(section, {})[name] = value
    return out
