"""The form of an answer: any text, any JSON object, or JSON of a schema."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from microgpt import json_text
from microgpt.data import chat_template
from microgpt.inference.language_model import LanguageModel
from microgpt.serve.limits import length, most
from microgpt.serve.openai.fields import Shape, invalid
from microgpt.tokenizers.base import Base

if TYPE_CHECKING:
    from microgpt.serve.json_grammar import Grammar, JsonText

Name = Annotated[str, length("name_chars")]
Schema = Annotated[dict[str, Any], Field(description="a JSON Schema; what is not held of it is refused by name")]


class TextFormat(Shape):
    """Any text."""

    type: Literal["text"]


class JsonObject(Shape):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Shape):
    """A schema of JSON. Its name and description are for people; it is held whether `strict` or not."""

    name: Name
    schema_: Schema = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class JsonSchema(Shape):
    """JSON of a schema, as chats name it."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class FlatJsonSchema(NamedSchema):
    """JSON of a schema, as responses name it."""

    type: Literal["json_schema"]


Format = Annotated[TextFormat | JsonObject | JsonSchema, Field(discriminator="type")]
FlatFormat = Annotated[TextFormat | JsonObject | FlatJsonSchema, Field(discriminator="type")]


async def grammar(model: LanguageModel, wanted: Shape | None, param: str) -> Grammar | None:
    """The grammar of a format; None for any text. Raises ApiError for a schema that is not held."""
    if isinstance(wanted, JsonObject):
        schema: dict[str, Any] = {"type": "object"}
    elif isinstance(wanted, JsonSchema):
        schema, param = wanted.json_schema.schema_, f"{param}.json_schema.schema"
    elif isinstance(wanted, FlatJsonSchema):
        schema, param = wanted.schema_, f"{param}.schema"
    else:
        return None
    if len(json_text.dumps(schema)) > most("schema_chars"):
        raise invalid(param, f"longer than {most('schema_chars'):,} characters")
    from microgpt.serve.json_grammar import Grammar, SchemaError

    try:
        return await asyncio.to_thread(Grammar, schema, cast(Base, model.tokenizer))
    except SchemaError as error:
        raise invalid(param, error.message, code=error.code) from None


def constraint(
    shape: Grammar | None, model: LanguageModel, prompt: Sequence[int], max_tokens: int | None
) -> JsonText | None:
    """A new text of a grammar. One that only the context bounds is led to its end in time; max_tokens may cut it."""
    if not shape:
        return None
    room = model.config.model.block_size + 1 - len(prompt)
    bounded = max_tokens is not None and max_tokens < room
    return shape.text(chat_template.end_turn(model.tokenizer), None if bounded else room)
