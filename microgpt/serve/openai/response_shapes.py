"""The shapes of /v1/responses: its answer, and the events of its stream."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(BaseModel):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[None] = []
    logprobs: list[None] = []


class OutputMessage(BaseModel):
    """An answer."""

    type: Literal["message"] = "message"
    id: str
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class InputDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """Of the answer's tokens."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Tokens of the prompt with BOS, and of the answer without what ended it."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why an answer is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class AnswerText(BaseModel):
    """The form that the answer has."""

    format: dict[str, object]


class Response(BaseModel):
    """An answer of /v1/responses; it is not stored."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    error: None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    store: bool = False
    temperature: float
    text: AnswerText
    tool_choice: Literal["none"] = "none"
    tools: list[None] = []
    top_p: float
    usage: ResponseUsage | None
    metadata: dict[str, str] = {}


class ResponseEvent(BaseModel):
    """An event of a stream; they are numbered from 0."""

    sequence_number: int


class ResponseState(ResponseEvent):
    """The response as it stands."""

    type: Literal["response.created", "response.in_progress", "response.completed", "response.incomplete"]
    response: Response


class ItemEvent(ResponseEvent):
    """The answer begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int = 0
    item: OutputMessage


class PartEvent(ResponseEvent):
    """Its text begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int = 0
    content_index: int = 0
    part: OutputText


class TextDelta(ResponseEvent):
    """A piece of the text."""

    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int = 0
    content_index: int = 0
    delta: str
    logprobs: list[None] = []


class TextDone(ResponseEvent):
    """The whole text."""

    type: Literal["response.output_text.done"]
    item_id: str
    output_index: int = 0
    content_index: int = 0
    text: str
    logprobs: list[None] = []


EVENTS = (ResponseState, ItemEvent, PartEvent, TextDelta, TextDone)
