"""muchq's routes: the service whose clients work here unchanged.

Bodies, defaults, limits and words are those of muchq's microgpt-serve; unknown fields are ignored.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from microgpt.data import chat_template
from microgpt.data.conversations import ROLES, Message
from microgpt.errors import DataError
from microgpt.inference.sampling import Sampling
from microgpt.serve.errors import EXACT, ApiError
from microgpt.serve.generation import Generation, Scored, seed_of
from microgpt.serve.limits import LIMITS, most
from microgpt.serve.models import ServedModel
from microgpt.serve.routes import Call, Route

HEAVY = 1000  # messages, or characters, that are not encoded on the event loop
Unsigned = Annotated[int, Field(ge=0, le=2**64 - 1, strict=True)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def described(**facts: Any) -> Any:
    """Facts for /openapi.json of a field whose error has muchq's words, not pydantic's."""
    return Field(json_schema_extra=facts)


class Body(BaseModel):
    """The fields that both routes have."""

    model_config = ConfigDict(strict=True, extra="ignore")
    temperature: Annotated[Real, described(minimum=0, maximum=LIMITS["temperature"].most)] = 0.5
    seed: Unsigned = 42
    max_tokens: Annotated[Unsigned | None, described(exclusiveMinimum=0)] = None


class GenerateBody(Body):
    """A body of /microgpt/v1/generate."""

    num_samples: Annotated[Unsigned, described(minimum=1)] = 1


class Samples(BaseModel):
    """Generated texts."""

    model_config = EXACT
    samples: list[str]


class Turn(BaseModel):
    """One turn."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Annotated[str, described(enum=ROLES)]
    content: Annotated[str, described(pattern=r"\S")]


class ChatBody(Body):
    """A body of /microgpt/v1/chat."""

    messages: Annotated[list[Turn], described(minItems=1)]


class Answer(BaseModel):
    """The answer to a chat."""

    model_config = EXACT
    role: Literal["assistant"] = "assistant"
    content: str
    tokens_dropped: int


async def generate(call: Call) -> Samples:
    """Texts from their beginning."""
    body: GenerateBody = call.body
    _check(body)
    if body.num_samples < 1:
        raise ApiError(400, "num_samples must be >= 1")
    served = await call.service.models.get()
    requests = [
        Generation([served.model.tokenizer.bos], Sampling(body.temperature), seed_of(body.seed, i), body.max_tokens)
        for i in range(min(body.num_samples, most("num_samples")))
    ]
    return Samples(samples=await _texts(served, requests, call.client))


async def chat(call: Call) -> Answer:
    """The answer to messages."""
    body: ChatBody = call.body
    _check(body)
    if not body.messages:
        raise ApiError(400, "messages must not be empty")
    for i, message in enumerate(body.messages):
        if message.role not in ROLES:
            raise ApiError(400, f'messages[{i}]: unknown role "{message.role[:40]}"')
        if not message.content.strip():
            raise ApiError(400, f"messages[{i}]: content must not be empty")
    served = await call.service.models.get()
    model = served.chat
    if not model:
        raise ApiError(400, "model was not trained with chat tokens")
    messages = [Message(message.role, message.content) for message in body.messages]  # type: ignore[arg-type]
    try:
        render = functools.partial(chat_template.prompt, messages, model.tokenizer, model.config.model.block_size)
        heavy = len(messages) + sum(len(message.content) for message in messages) > HEAVY
        prompt = await asyncio.to_thread(render) if heavy else render()
    except DataError as error:
        raise ApiError(400, str(error)) from None
    request = Generation(
        prompt.tokens,
        Sampling(body.temperature),
        body.seed,
        body.max_tokens,
        chat_template.end_turn(model.tokenizer),
        chat_template.never_sampled(model.tokenizer),
        allow_empty=False,
    )
    (content,) = await _texts(served, [request], call.client)
    return Answer(content=content, tokens_dropped=prompt.dropped)


async def _texts(served: ServedModel, requests: list[Generation], client: str) -> list[str]:
    texts: list[list[str]] = [[] for _ in requests]
    async with await served.submit(requests, client, whole=True) as reply:
        async for events in reply.batches():
            for number, event in events:
                if not isinstance(event, Scored):
                    texts[number].append(event.text)
    return ["".join(pieces) for pieces in texts]


def _check(body: Body) -> None:
    limit = LIMITS["temperature"].most
    if not 0 <= body.temperature <= limit:
        given = np.format_float_positional(body.temperature, trim="-")  # as its Rust prints numbers
        expected = ">= 0" if body.temperature < 0 else f"<= {limit:,.0f}"
        raise ApiError(400, f"temperature must be {expected}, got {given}")
    if body.max_tokens == 0:
        raise ApiError(400, "max_tokens must be >= 1 when specified")


ROUTES = [
    Route("POST", "/microgpt/v1/generate", generate, "Texts from their beginning.", body=GenerateBody, answer=Samples),
    Route("POST", "/microgpt/v1/chat", chat, "The answer to messages.", body=ChatBody, answer=Answer),
]
