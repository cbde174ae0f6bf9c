"""The messages of a chat or response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field

from microgpt.data.conversations import Message, Role
from microgpt.inference.chat import ChatModel
from microgpt.serve.limits import length, most
from microgpt.serve.models import ServedModel
from microgpt.serve.openai.fields import Shape, invalid, one_of


class TextPart(Shape):
    """A part of a message's content."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ChatPart(TextPart):
    """A part of a chat message's content."""

    type: Literal["text"]


Parts = Annotated[list[ChatPart], length("parts")]
SAYS = Field(json_schema_extra={"pattern": r"\S"})  # for /openapi.json; the error for a blank text has its own words
Content = Annotated[Annotated[str, SAYS] | Parts, one_of(f"a text, or 1 to {most('parts'):,} parts of type text")]


class ChatMessage(Shape):
    """A message of a chat."""

    role: Role
    content: Content
    name: Annotated[str, length("name_chars")] | None = Field(None, description="for people; the model is not told it")


Messages = Annotated[list[ChatMessage], length("messages")]


def text_of(content: str | Sequence[TextPart]) -> str:
    """A message's text: its parts one after another."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


class HasText(Protocol):
    """A message of either route."""

    role: Role

    @property
    def content(self) -> str | Sequence[TextPart]:
        """Its text, or parts of it."""


def plain(messages: Sequence[HasText], param: str) -> list[Message]:
    """Messages as models are trained on. Raises ApiError for one without text."""
    return [
        Message(message.role, told(f"{param}[{i}].content", text_of(message.content)))
        for i, message in enumerate(messages)
    ]


def told(param: str, text: str) -> str:
    """The text of a message, which models are not trained on unless it says something. Raises ApiError."""
    if not text.strip():
        raise invalid(param, "must not be blank")
    return text


def chat_model(served: ServedModel) -> ChatModel:
    """The model, if it answers messages. Raises ApiError."""
    if not served.chat:
        raise invalid(
            "model", f"{served.name!r} was not trained on conversations; use /v1/completions", code="not_a_chat_model"
        )
    return served.chat
