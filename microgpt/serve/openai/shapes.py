"""Parts of OpenAI's answers that several routes share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable

from pydantic import BaseModel

import microgpt
from microgpt.serve.generation import Finished

FINGERPRINT = f"b{microgpt.__version__}"


class Head(BaseModel):
    """The beginning of an answer, or of a piece of its stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT


class Usage(BaseModel):
    """Tokens of a request: its prompts with BOS, each counted once, and its completions without what ended them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage_of(ends: Iterable[Finished], n: int) -> Usage:
    """The usage of choices in the order of their numbers, n per prompt."""
    all_ends = list(ends)
    prompts = sum(end.prompt_tokens for end in all_ends[::n])
    completions = sum(end.completion_tokens for end in all_ends)
    return Usage(prompt_tokens=prompts, completion_tokens=completions, total_tokens=prompts + completions)


def new_id(prefix: str) -> str:
    """A name for an answer, with the prefix of OpenAI's."""
    return f"{prefix}{secrets.token_hex(12)}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
