"""The limits of a request, in one table: the schema, docs/serve.md and the tests are made from it.

Everything a client sends is bounded before any work is done for it. A type such as `Temperature` is a limit of this
table in the form that pydantic checks; strict types take no `"1"` and no `true` for a number.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field

MIB = 2**20


class Limit(NamedTuple):
    """The least and the most that a value may be, both allowed."""

    least: float
    most: float
    meaning: str


LIMITS = {
    # of a request as a whole
    "body_bytes": Limit(1, 4 * MIB, "bytes of a request's body, also if it comes in chunks"),
    "head_bytes": Limit(0, 64 * 1024, "bytes of a request's line and headers"),
    "head_lines": Limit(0, 100, "headers of a request"),
    "head_seconds": Limit(0, 10, "seconds in which a request's line and headers arrive"),
    "body_seconds": Limit(0, 10, "seconds in which a request's body arrives"),
    "write_seconds": Limit(0, 10, "seconds in which a client reads what fills the connection's buffers"),
    "idle_seconds": Limit(0, 30, "seconds that a connection stays open between two requests"),
    "connections": Limit(0, 4096, "connections at a time"),
    "json_depth": Limit(0, 64, "nesting of arrays and objects in JSON"),
    "json_integer": Limit(-(2**63), 2**64 - 1, "an integer in JSON"),
    # of its fields
    "prompts": Limit(1, 64, "prompts of a completion"),
    "messages": Limit(1, 1024, "messages of a chat"),
    "parts": Limit(1, 64, "parts of a message's content"),
    "n": Limit(1, 128, "choices per prompt"),
    "choices": Limit(1, 2048, "choices of all prompts together"),
    "num_samples": Limit(1, 50, "samples of /microgpt/v1/generate; more are cut to it"),
    "max_tokens": Limit(0, 2**63 - 1, "new tokens of a choice; the context ends it before"),
    "answer_tokens": Limit(1, 2**63 - 1, "new tokens of an answer; the context ends it before"),
    "seed": Limit(0, 2**64 - 1, "the seed of the first choice; the next ones count on from it"),
    "temperature": Limit(0, 1e6, "the temperature; 0 takes the likeliest token"),
    "top_k": Limit(0, 2**31 - 1, "tokens to draw from; 0 is off"),
    "top_p": Limit(0, 1, "the probability that the tokens to draw from hold; 1 is off"),
    "min_p": Limit(0, 1, "the least probability of a token relative to the likeliest; 0 is off"),
    "repetition_penalty": Limit(1e-6, 1e6, "the penalty of tokens that occurred; 1 is off"),
    "presence_penalty": Limit(-2, 2, "taken from the logits of tokens that were drawn; 0 is off"),
    "frequency_penalty": Limit(-2, 2, "taken from a token's logit for each time it was drawn; 0 is off"),
    "logit_bias": Limit(-100, 100, "added to a token's logit"),
    "logit_biases": Limit(0, 4096, "tokens with a bias"),
    "logprobs": Limit(0, 20, "alternatives per token"),
    "draws": Limit(0, 2**20, "tokens that a seed has drawn before"),
    "searched_chars": Limit(1, 2**14, "characters looked for in a training text"),
    "stops": Limit(1, 4, "texts that end a choice"),
    "stop_chars": Limit(1, 4096, "characters of a stop"),
    "schema_chars": Limit(2, 2**16, "characters of a JSON schema"),
    # of a look inside a model
    "looked_chars": Limit(0, 2**16, "characters of a text to look at; the last tokens are taken of a long one"),
    "positions": Limit(1, 1024, "positions of a text that are shown; a large model shows fewer"),
    "changes": Limit(0, 64, "parts of a model that are scaled or switched off"),
    "swaps": Limit(0, 64, "tokens that stand in place of others"),
    "scale": Limit(-100, 100, "the factor of what a part of the model adds; 0 switches it off"),
    "place": Limit(0, 2**31 - 1, "a layer, head, neuron, position or token, counted from 0"),
    "shown": Limit(1, 20, "tokens or texts that are shown"),
    "name_chars": Limit(1, 256, "characters of a model's name"),
    "document_chars": Limit(1, 10_000, "characters of a document to step through"),
    "step_numbers": Limit(0, 250_000, "numbers of a training step that the page shows"),
    "compared_weights": Limit(1, 100_000_000, "weights of a model that is compared with another"),
    # of the page
    "runs": Limit(1, 8, "runs that are watched together"),
    "watchers": Limit(0, 64, "streams that watch runs, at a time"),
    "points": Limit(16, 4000, "points of a curve"),
    "trainings": Limit(0, 4, "trainings that the page began and that run, at a time"),
    "text_chars": Limit(1, 4 * MIB, "characters of a text to train on"),
    "steps": Limit(1, 2**31 - 1, "steps of a training"),
    "training_seconds": Limit(1, 1e7, "seconds that a training may take"),
    "step": Limit(0, 2**53, "a step of a training"),
}


def most(name: str) -> int:
    """The upper limit of a whole number."""
    return int(LIMITS[name].most)


def within(name: str) -> Any:
    """The limit as a strict field of pydantic, for numbers."""
    limit = LIMITS[name]
    return Field(ge=limit.least, le=limit.most, strict=True, allow_inf_nan=False, description=limit.meaning)


def length(name: str) -> Any:
    """The limit as a field of pydantic, for the length of a text or list."""
    limit = LIMITS[name]
    return Field(min_length=int(limit.least), max_length=int(limit.most), strict=True, description=limit.meaning)


Choices = Annotated[int, within("n")]
MaxTokens = Annotated[int, within("max_tokens")]
AnswerTokens = Annotated[int, within("answer_tokens")]
Seed = Annotated[int, within("seed")]
Temperature = Annotated[float, within("temperature")]
TopK = Annotated[int, within("top_k")]
TopP = Annotated[float, within("top_p")]
MinP = Annotated[float, within("min_p")]
RepetitionPenalty = Annotated[float, within("repetition_penalty")]
PresencePenalty = Annotated[float, within("presence_penalty")]
FrequencyPenalty = Annotated[float, within("frequency_penalty")]
Bias = Annotated[float, within("logit_bias")]
Logprobs = Annotated[int, within("logprobs")]
Stop = Annotated[str, length("stop_chars")]
Place = Annotated[int, within("place")]
Scale = Annotated[float, within("scale")]
Shown = Annotated[int, within("shown")]
Points = Annotated[int, within("points")]
Name = Annotated[str, length("name_chars")]
Document = Annotated[str, length("document_chars")]
