"""Flags that commands share: every configuration key, the sampling, the engine."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import secrets
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import Group, Parameter

from microgpt.commands.selection import CheckpointFlag
from microgpt.config import READING, SECTIONS, Config, Data, merge
from microgpt.errors import UsageError, nearest
from microgpt.limits import MAX_COUNT, MAX_REAL
from microgpt.older import upgraded
from microgpt.scenarios import read, scenario, scenarios, size
from microgpt.terminal import output, say

if TYPE_CHECKING:
    from microgpt.inference.language_model import LanguageModel
    from microgpt.inference.sampling import Sampling

# Flags that have another name than their key, or a second one.
NAMES = {
    "path": ("--data",),
    "learning_rate": ("--learning-rate", "--lr"),
    "min_learning_rate": ("--min-learning-rate", "--min-lr"),
    "checkpoint_every": ("--checkpoint-every", "--save-every"),
    "keep": ("--keep", "--keep-last"),
    "tokenizer_size": ("--vocab-size",),
    "val_path": ("--val-data",),
}
Flags = Parameter(name="*")  # of an argument whose fields are flags of their own
MOST_LISTED = 64  # numbers of a flag that takes a list
NO_FLAG = {"vocab_size"}  # the tokenizer has it


def _section(name: str, cls: Any, only: Container[str] | None = None) -> Any:
    group = Group(f"{name.capitalize()} options")
    fields = []
    for key, field in cls.model_fields.items():
        if key in NO_FLAG or (only is not None and key not in only):
            continue
        parameter = Parameter(
            help=field.description,
            name=NAMES.get(key),
            group=group,
            show_default=False,
            allow_leading_hyphen=key == "path",  # - is standard input
        )
        fields.append((key, Annotated[_plain(field.annotation), parameter], None))
    return _dataclass(f"{name.capitalize()}Flags", fields)


def _dataclass(name: str, fields: list[Any]) -> Any:
    flags = dataclasses.make_dataclass(name, fields, frozen=True)
    flags.__module__ = __name__  # cyclopts looks for the fields' types where a class was made
    return flags


def _plain(annotation: Any) -> Any:
    """The key's type without its limits (the configuration checks those), or None."""
    if getattr(annotation, "__metadata__", None):
        return _plain(annotation.__origin__)
    if type(None) in get_args(annotation):  # the limits of `X | None` are within X
        return _plain(get_args(annotation)[0])
    return annotation | None


def _sections(*names: str) -> Any:
    """A class of the flags of some sections of the configuration."""
    classes = ((name, _section(name, SECTIONS[name])) for name in names)
    return _dataclass("Sections", [(name, Annotated[cls, Flags], cls()) for name, cls in classes])


ConfigFlags = _sections("model", "optim", "data", "run")
TuningFlags = _sections("optim", "run")
ReadingFlags = _section("data", Data, READING - {"score"} | {"tokenizer_size", "bpe_merges", "tokenizer_sample"})


def given(flags: Any) -> dict[str, dict[str, Any]]:
    """The layer of flags that were given, by section."""
    sections = dataclasses.asdict(flags).items()
    return {name: {key: value for key, value in keys.items() if value is not None} for name, keys in sections}


def resolve(
    source: str | None,
    config_file: Path | None,
    flags: dict[str, dict[str, Any]],
    dial: str | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults < scenario, or what is `chosen` for a text < --size < --config file < flags, checked.

    `source` is a scenario's name or a text.

    Without one the text is that of the flags or of the file, whose name the run then has, else the scenario names.
    Raises UsageError, also where `source` and the file name two texts.
    """
    layer = upgraded(read(config_file)) if config_file else {}
    in_file = _texts(layer)
    if config_file and source is None and (in_file or _texts(flags)):
        lowest: dict[str, Any] = {"name": run_name(str(config_file))}
    else:
        lowest = base(source or "names")
    layers = [lowest, chosen or {}, *([size(dial)] if dial else [])]
    if config_file:
        layers.append(layer)
        Config.from_dict(merge(*layers), str(config_file))
        named = in_file if source in (None, *scenarios()) else in_file | {f"SOURCE {source}": source}
        if len(set(named.values())) > 1:
            raise UsageError(
                f"--config {config_file}: {' and '.join(named)}: each names the text to train on; leave all but one out"
            )
    return Config.from_dict(merge(*layers, flags), "flags")


def as_configuration(source: str | None) -> Path | None:
    """The file that SOURCE names, if it is a configuration: TOML with one of its sections. Raises UsageError."""
    if source is None or not source.endswith(".toml") or not os.path.isfile(source):
        return None
    try:
        layer = read(Path(source))
    except UsageError as error:
        raise UsageError(f"{error}; --data {source} trains on it as text") from None
    return Path(source) if any(isinstance(layer.get(section), dict) for section in SECTIONS) else None


def _texts(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a configuration layer that name the text to train on."""
    data = layer.get("data")
    return {f"data.{key}": data[key] for key in ("path", "dataset") if key in data} if isinstance(data, Mapping) else {}


def base(source: str) -> dict[str, Any]:
    """The layer of a scenario, or of a text file in its place. Raises UsageError with the nearest names."""
    if source in scenarios():
        return scenario(source)
    path = Path(source)
    if os.path.exists(path) or source == "-" or glob.has_magic(source):
        return {"name": run_name(source), "data": {"path": source}}
    if path.suffix or "/" in source or "\\" in source:
        raise UsageError(f"{source}: no such file; name a text file or a scenario ({', '.join(scenarios())})")
    raise UsageError(f"no scenario or file is called {source!r}; {nearest(source, scenarios())}")


def run_name(source: str) -> str:
    """The name of a run on a scenario or text: the file's, without characters that a folder's name should not have."""
    if source == "-":
        return "stdin"
    return re.sub(r"[^\w.-]+", "", Path(os.path.realpath(source)).stem.removesuffix(".txt")) or "text"


def require(flag: str, value: float, least: float, most: float, off: str = "") -> None:
    """Raise UsageError for a number outside of its limits, one that is not finite too; `off` explains the least."""
    if not least <= value <= most:
        raise UsageError(f"{flag}: must be {least:,}{off} to {most:,}, got {value}")


def whole_numbers(flag: str, text: str, least: int, most: int) -> list[int]:
    """The numbers of a list such as 16,32,64. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST_LISTED or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise UsageError(f"{flag} {text}: expected whole numbers with commas between, such as 16,32,64")
    for part in parts:
        require(flag, int(part), least, most)
    return [int(part) for part in parts]


def require_text(source: str, *layers: Mapping[str, Any]) -> None:
    """Raise UsageError where none of the data sections names a text to train on."""
    if not {"path", "dataset"} & {key for layer in layers for key in layer}:
        raise UsageError(f"{source}: has no text of its own; name one with --data FILE")


PENALTIES = f"{1 / MAX_REAL:.6f} to {MAX_REAL:,.0f}; 1 is off"


@dataclasses.dataclass(frozen=True)
class SamplingFlags:
    """How tokens are drawn. Raises UsageError with the flag and its limits."""

    temperature: Annotated[
        float | None,
        Parameter(alias="--temp", help="0 always takes the likeliest token (default: the model's, mostly 0.5)."),
    ] = None
    top_k: Annotated[int, Parameter(help="Draw from this many likeliest tokens; 0 is off.")] = 0
    top_p: Annotated[float, Parameter(help="Draw from the likeliest tokens that hold this probability; 1 is off.")] = (
        1.0
    )
    min_p: Annotated[
        float, Parameter(help="Draw from tokens at least this likely relative to the likeliest; 0 is off.")
    ] = 0.0
    repetition_penalty: Annotated[float, Parameter(help="Make tokens that occurred less likely; 1 is off.")] = 1.0
    max_tokens: Annotated[
        int | None, Parameter(alias="--max-new-tokens", help="Maximum of new tokens (default: the context's rest).")
    ] = None
    stop: Annotated[
        list[str] | None, Parameter(negative="", help="End the text before this; may be given several times.")
    ] = None
    seed: Annotated[
        int | Literal["run"] | None,
        Parameter(
            help="Seed of the draws; run continues the run's own generator, as the samples at the end of training do "
            "(default: another each time, printed on standard error)."
        ),
    ] = None

    def __post_init__(self) -> None:
        t, penalty, most = self.temperature, self.repetition_penalty, self.max_tokens
        for flag, value, good, limits in (
            ("--temperature", t, t is None or 0 <= t <= MAX_REAL, f"0 to {MAX_REAL:,.0f}"),
            ("--top-k", self.top_k, 0 <= self.top_k <= MAX_COUNT, f"0 (off) to {MAX_COUNT:,}"),
            ("--top-p", self.top_p, 0 < self.top_p <= 1, "above 0, up to 1 (off)"),
            ("--min-p", self.min_p, 0 <= self.min_p <= 1, "0 (off) to 1"),
            ("--repetition-penalty", penalty, 1 / MAX_REAL <= penalty <= MAX_REAL, PENALTIES),
            ("--max-tokens", most, most is None or 0 < most <= MAX_COUNT, f"1 to {MAX_COUNT:,}"),
            (
                "--seed",
                self.seed,
                self.seed == "run" or abs(self.seed or 0) < 2**64,
                "below 2^64, either sign",
            ),  # as the service takes them
            ("--stop", "''", "" not in self.stops, "some text"),  # every text begins with the empty one
        ):
            if not good:
                raise UsageError(f"{flag}: must be {limits}, got {value}")

    @property
    def stops(self) -> list[str]:
        """The texts that end a text."""
        return self.stop or []

    def new_seed(self) -> int | None:
        """The seed that is given, or a new one; None for the run's own generator."""
        if self.seed == "run":
            return None
        return secrets.randbelow(2**32) if self.seed is None else self.seed

    def say_seed(self, seed: int | None, sampling: Sampling) -> None:
        """Print a seed that was not given on stderr, which draws the same texts again, where tokens are drawn."""
        if self.seed is None and sampling.temperature > 0:
            output("", end="", flush=True)  # the texts come first, and a pipe that nobody reads ends it here
            say(f"seed    {seed}")

    def of(self, model: LanguageModel) -> Sampling:
        """The sampling asked for, at the model's own temperature unless one is given."""
        options = {"top_k": self.top_k, "top_p": self.top_p, "min_p": self.min_p}
        given = {} if self.temperature is None else {"temperature": self.temperature}
        return model.sampling(repetition_penalty=self.repetition_penalty, **options, **given)


@dataclasses.dataclass(frozen=True)
class EngineFlags:
    """How a model is opened: which checkpoint, and the engine that computes."""

    checkpoint: CheckpointFlag = None
    engine: Annotated[str, Parameter(help="Engine, or auto.")] = "auto"
    dtype: Annotated[str, Parameter(help="Type of the numbers it computes with, or auto.")] = "auto"
    device: Annotated[str, Parameter(help="Device it computes on, or auto.")] = "auto"
