"""POST /tokenize and /detokenize, GET /tokenizer_info: the tokenizer of a model, as llama.cpp and vLLM serve it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from microgpt.data import chat_template
from microgpt.serve import limits
from microgpt.serve.models import ServedModel
from microgpt.serve.openai.fields import Shape, invalid
from microgpt.serve.openai.prompts import encode, given
from microgpt.serve.routes import Call

GIVEN: dict[str, Any] = {"type": "string"}
ONE_OF_TWO: dict[str, Any] = {  # for /openapi.json
    "oneOf": [{"required": [name], "properties": {name: GIVEN}} for name in ("content", "prompt")]
}
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]


class TokenizeBody(Shape):
    """A text under one of two names; no text becomes a special token.

    But lm-eval finds the ids of BOS and of the token that ends a text by their names in GET /tokenizer_info: a `prompt`
    that is such a name, whole, with `add_special_tokens` false, is that token.
    """

    model_config = ConfigDict(json_schema_extra=ONE_OF_TWO)
    model: limits.Name | None = None
    content: str | None = Field(None, description="the text")
    prompt: str | None = Field(None, description="the same by vLLM's name")
    add_special_tokens: bool | None = Field(None, description="whether BOS comes first; false by default")


class Tokens(BaseModel):
    """Token ids."""

    tokens: list[int]


class DetokenizeBody(Shape):
    """Token ids."""

    model: limits.Name | None = None
    tokens: list[TokenId]


class Text(BaseModel):
    """A text, under both names."""

    content: str
    prompt: str = Field(description="the same by vLLM's name")


class TokenizerInfo(BaseModel):
    """Facts of a tokenizer."""

    tokenizer_class: str = Field(description="char, word, word-lossy, bpe, bpe-vidya or bpe-words")
    vocab_size: int
    model_max_length: int
    bos_token: str = Field(description="its name; no text encodes to it")
    bos_token_id: int
    eos_token: str
    eos_token_id: int
    chat_template: str | None


async def tokenize(call: Call) -> Tokens:
    """A text's tokens, without BOS."""
    body: TokenizeBody = call.body
    if (body.content is None) == (body.prompt is None):
        raise invalid("content", "give either content or prompt")
    served = await call.service.models.get(body.model)
    param = "content" if body.prompt is None else "prompt"
    text = body.content if body.prompt is None else body.prompt
    assert text is not None
    if param == "prompt" and body.add_special_tokens is False and (token := _named(served, text)) is not None:
        return Tokens(tokens=[token])
    found = await encode(served.model, text, param)
    return Tokens(tokens=found if body.add_special_tokens else found[1:])


async def detokenize(call: Call) -> Text:
    """The text of tokens; special tokens have none."""
    body: DetokenizeBody = call.body
    served = await call.service.models.get(body.model)
    text = served.model.tokenizer.decode(given(served.model, body.tokens, "tokens"))
    return Text(content=text, prompt=text)


def _end(served: ServedModel) -> int:
    """The token that ends a text or an answer."""
    tokenizer = served.model.tokenizer
    return chat_template.end_turn(tokenizer) if served.chat else tokenizer.bos


def _named(served: ServedModel, name: str) -> int | None:
    """BOS or the token that ends a text, by its name in GET /tokenizer_info."""
    tokenizer = served.model.tokenizer
    return next((token for token in (tokenizer.bos, _end(served)) if tokenizer.token(token) == name), None)


async def tokenizer_info(call: Call) -> TokenizerInfo:
    """Facts of the default model's tokenizer."""
    served = await call.service.models.get()
    tokenizer, end = served.model.tokenizer, _end(served)
    return TokenizerInfo(
        tokenizer_class=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        model_max_length=served.model.config.model.block_size,
        bos_token=tokenizer.token(tokenizer.bos),
        bos_token_id=tokenizer.bos,
        eos_token=tokenizer.token(end),
        eos_token_id=end,
        chat_template=chat_template.TEMPLATE if served.chat else None,
    )
