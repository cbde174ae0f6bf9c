"""A request for one text, and the events that answer it: independent of the engine, of HTTP and of its dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from microgpt.inference.sampling import Sampling

FinishReason = Literal["stop", "length"]
SEEDS = 2**64  # seeds wrap here


class Constraint(Protocol):
    """The tokens that may come next, such as those of a JSON schema. It belongs to one text and is called in turn."""

    def allowed(self) -> np.ndarray:
        """bool (V,): the tokens that may come next, at least one. Raises ApiError where there is none."""

    def accept(self, token: int) -> None:
        """The token that was drawn, one of those that were allowed, and not the stop token."""

    @property
    def finished(self) -> bool:
        """Whether the text is whole and nothing may follow; it then ends."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A text to generate: the one that `LanguageModel.stream` gives for Random(seed).

    The defaults are those of a text that begins with BOS and ends with it.
    """

    prompt: Sequence[int]  # BOS included; at most block_size tokens
    sampling: Sampling
    seed: int
    max_tokens: int | None = None  # None: the rest of the context
    stop_token: int | None = None  # None: BOS
    never: Sequence[int] = ()  # tokens that are never drawn
    allow_empty: bool = True  # whether the stop token may be the first
    stops: Sequence[str] = ()  # the text ends before these
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    mask: Constraint | None = None
    logprobs: int | None = None  # None: no log probabilities; else the number of alternatives per token
    echo: bool = False  # with logprobs: score the prompt's tokens, too
    lists_bos: bool = False  # whether those begin with BOS
    weigh: bool = False  # with logprobs: tell what the sampling makes of each candidate
    draws: int = 0  # random numbers of the seed that an earlier part of this text has taken


class Candidate(NamedTuple):
    """A token that may come next (with `weigh`)."""

    id: int
    logprob: float  # the model's own, natural
    share: float  # the probability that it is drawn with: after bias, penalties, masks, temperature and filters


class Scored(NamedTuple):
    """A token of the prompt (with `echo`), BOS left out unless `lists_bos`; without `weigh` the first has no log
    probability.

    All log probabilities are the model's own, natural: before temperature, bias, penalties, masks and filters.
    """

    id: int
    logprob: float | None
    top: Sequence[tuple[int, float]]
    candidates: Sequence[Candidate] = ()  # the likeliest before and after sampling and the token itself


class Token(NamedTuple):
    """A token that was drawn, and the text that it completes: whole characters, nothing of a stop, maybe empty."""

    id: int
    text: str
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()
    candidates: Sequence[Candidate] = ()  # as of Scored


class Finished(NamedTuple):
    """The last event of a text."""

    reason: FinishReason
    text: str  # that was held back until here
    prompt_tokens: int  # BOS included
    completion_tokens: int  # without the one that ended the text
    ending: Scored | None = None  # the token that ended it, where log probabilities were asked for


Event = Scored | Token | Finished


def seed_of(first: int, number: int) -> int:
    """The seed of choice `number` of a request."""
    return (first + number) % SEEDS
