"""Texts, token ids and messages → the tokens that a choice continues."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.errors import DataError
from microgpt.inference.chat import ChatModel
from microgpt.inference.language_model import LanguageModel
from microgpt.serve.openai.fields import invalid

LONG = 10_000  # characters that are not encoded on the event loop


async def encode(model: LanguageModel, text: str, param: str, where: str = "") -> list[int]:
    """The tokens of a text, BOS first. Raises ApiError; `where` says which of several texts of the field."""
    try:
        found = await asyncio.to_thread(_tokens, model, text) if len(text) > LONG else _tokens(model, text)
    except DataError as error:
        raise invalid(param, f"{where}{error}", code="unknown_token") from None
    return [model.tokenizer.bos, *found]


def _tokens(model: LanguageModel, text: str) -> list[int]:
    found: list[int] = model.tokenizer.encode(text).tolist()
    return found


def given(model: LanguageModel, tokens: Sequence[int], param: str, where: str = "") -> list[int]:
    """Token ids of a request, BOS first, which they may have themselves. Raises ApiError for one that is no token."""
    size = model.tokenizer.vocab_size
    if bad := next((token for token in tokens if token >= size), None):
        raise invalid(param, f"{where}{bad} is no token; expected ids from 0 to {size - 1}")
    bos = model.tokenizer.bos
    return list(tokens) if tokens and tokens[0] == bos else [bos, *tokens]


async def conversation(model: ChatModel, messages: Sequence[Message], param: str) -> list[int]:
    """The tokens of messages and of the answer's role, none of them dropped. Raises ApiError."""
    tokenizer = model.tokenizer
    length = sum(len(message.content) for message in messages)

    def render() -> list[int]:
        return chat_template.prompt(messages, tokenizer, sys.maxsize).tokens  # whatever the length: nothing is dropped

    try:
        found = await asyncio.to_thread(render) if length > LONG else render()
    except DataError as error:
        raise invalid(param, str(error), code="unknown_token") from None
    fits(model, found, param)
    return found


def fits(model: LanguageModel, tokens: Sequence[int], param: str, where: str = "") -> None:
    """Raise ApiError for more tokens than the context holds."""
    block_size = model.config.model.block_size
    if len(tokens) > block_size:
        message = f"{where}{len(tokens)} tokens, but this model's context holds {block_size}"
        raise invalid(param, message, code="context_length_exceeded")
