"""The fields that OpenAI's requests share, and how a wrong one is refused.

Types are strict, unknown and unsupported fields are refused by name, null stands for an absent field.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling
from microgpt.serve import limits
from microgpt.serve.errors import ApiError
from microgpt.serve.limits import most


class Shape(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid")


def one_of(expected: str) -> WrapValidator:
    """Validation of a union whose error is this one sentence, instead of one for each member."""

    def validate(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("one_of", "expected {expected}", {"expected": expected}) from None

    return WrapValidator(validate)


Stops = Annotated[
    limits.Stop | Annotated[list[limits.Stop], limits.length("stops")],
    one_of(f"a text, or a list of 1 to {most('stops')} texts, of 1 to {most('stop_chars'):,} characters each"),
]
TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$", description="a token's id, in decimal")]
Biases = Annotated[dict[TokenKey, limits.Bias], Field(max_length=most("logit_biases"))]


class StreamOptions(Shape):
    """What a stream tells besides its texts."""

    include_usage: bool = False


class SamplingFields(Shape):
    """How tokens are drawn. Without a seed the reply differs from time to time."""

    model: limits.Name | None = Field(None, description="a name of GET /v1/models; the first one by default")
    temperature: limits.Temperature | None = Field(None, description="the model's own by default")
    top_p: limits.TopP | None = None
    top_k: limits.TopK | None = None
    min_p: limits.MinP | None = None
    repetition_penalty: limits.RepetitionPenalty | None = None
    seed: limits.Seed | None = None
    stream: bool | None = None
    user: limits.Name | None = Field(None, description="a name for the person who asks; it changes nothing")

    def sampling(self, model: LanguageModel) -> Sampling:
        """As the terminal draws with the same flags."""
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return model.sampling(**given)

    def first_seed(self) -> int:
        """The seed of the first choice."""
        return secrets.randbits(63) if self.seed is None else self.seed


class ChoiceFields(SamplingFields):
    """Fields of completions and chats alike."""

    n: limits.Choices | None = None
    stop: Stops | None = None
    presence_penalty: limits.PresencePenalty | None = None
    frequency_penalty: limits.FrequencyPenalty | None = None
    logit_bias: Biases | None = None
    stream_options: StreamOptions | None = Field(None, description="only with stream")

    def stops(self) -> list[str]:
        """The texts before which a choice ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def biases(self, model: LanguageModel) -> dict[int, float]:
        """Token ids and what is added to their logits. Raises ApiError for an id that the model lacks."""
        found = {int(key): value for key, value in (self.logit_bias or {}).items()}
        size = model.tokenizer.vocab_size
        if found and max(found) >= size:
            raise invalid("logit_bias", f"{max(found)} is no token; expected ids from 0 to {size - 1}")
        return found

    def check_stream_options(self) -> bool:
        """Whether a stream ends with its usage. Raises ApiError for options without a stream."""
        if self.stream_options and not self.stream:
            raise invalid("stream_options", "only with stream: true")
        return bool(self.stream_options and self.stream_options.include_usage)


def invalid(param: str, message: str, code: str | None = None) -> ApiError:
    """The error for a field."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def refuse(errors: list[Any]) -> ApiError:
    """The error for a body of the wrong shape, by the first of pydantic's errors."""
    error = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    unknown = error["type"] == "extra_forbidden"
    param, tagged = "", False
    for part in error["loc"]:
        if param == "logit_bias":
            break  # what follows is a key that the client chose
        if param in ("response_format", "text.format") and not tagged:
            tagged = True  # the first part names the member of a union
            continue
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else part
    if not param:
        return ApiError(400, "expected a JSON object", code="invalid_value")
    if unknown:
        return invalid(param, "this parameter is unknown or not supported; leave it out", code="unsupported_parameter")
    if error["type"] == "missing":
        return invalid(param, "this parameter is required", code="missing_required_parameter")
    return invalid(param, error["msg"][:1].lower() + error["msg"][1:], code="invalid_value")
