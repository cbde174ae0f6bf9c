"""Play: texts token by token, each token with the likeliest ones in its place, before and after the sampling's filters.

`POST /api/play` generates, `POST /api/score` looks at a given text, `GET /api/play/{model}` tells what there is to play
with. The text of a seed is the one that every other route gives for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Annotated, cast

from pydantic import BaseModel, Field

from microgpt.data import chat_template
from microgpt.serve import limits
from microgpt.serve.api.prompts import PromptBody, prompt
from microgpt.serve.errors import Dialect
from microgpt.serve.generation import Event, Finished, FinishReason, Generation, Scored, Token
from microgpt.serve.models import ServedModel
from microgpt.serve.openai.choices import spell
from microgpt.serve.openai.streaming import Chunks, ReplyStream
from microgpt.serve.routes import Call, Events, Route
from microgpt.tokenizers import Tokenizer
from microgpt.tokenizers.base import Base


class PlayBody(PromptBody):
    """A request of /api/play."""

    seed: limits.Seed | None = Field(None, description="any by default")
    draws: Annotated[int, limits.within("draws")] = Field(
        0, description="tokens that this seed has drawn before: the text goes on as if it had not been stopped"
    )
    max_tokens: limits.AnswerTokens | None = Field(None, description="the rest of the context by default")
    stop: list[limits.Stop] = Field([], max_length=limits.most("stops"), description="texts that end it")
    echo: bool = Field(True, description="whether the prompt's tokens are told first")


class PlayCandidate(BaseModel):
    """A token that could stand in a place."""

    id: int
    text: str
    logprob: float = Field(description="the model's own, natural")
    share: float = Field(description="the probability that it is drawn with, after temperature, penalty and filters")


class PlayToken(BaseModel):
    """A token. Its `piece` is the text that it completes: "" while a character is not whole."""

    id: int
    piece: str
    text: str
    logprob: float | None
    candidates: list[PlayCandidate]


class PromptEvent(BaseModel):
    """The first event of a stream, with `echo`: the prompt's tokens without BOS."""

    prompt: list[PlayToken]
    dropped: int = Field(description="tokens that were left out in front, for want of room")


class TokenEvent(BaseModel):
    """A token that was drawn."""

    token: PlayToken


class End(BaseModel):
    """How a text ended."""

    reason: FinishReason
    text: str = Field(description="the text that was generated, up to a stop")
    ending: PlayToken | None = Field(description="the token that ended it")
    full: bool = Field(description="whether the context holds no more tokens")
    seed: int


class EndEvent(BaseModel):
    """The last event."""

    end: End


class Playable(BaseModel):
    """A model to play with."""

    name: str
    chat: bool
    roles: list[str] = Field(description="those that its conversations may have")
    block_size: int = Field(description="tokens of context")
    vocab_size: int
    parameters: int = Field(description="of all members of an ensemble together")
    temperature: float = Field(description="its own")
    tokenizer: str
    special: dict[str, int] = Field(description="the ids of the special tokens by name")
    end: int = Field(description="the token that ends a text or an answer")
    step: int | None = Field(description="of its checkpoint")


class Teller:
    """Events of a reply → what the page shows of them, in one decoding from the prompt to the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = cast(Base, tokenizer)
        self._stream = tokenizer.stream()
        self._last: int | None = None

    def tell(self, found: Scored | Token, *, ends: bool = False) -> PlayToken:
        """The next token."""
        candidates = [
            PlayCandidate(id=each.id, text=self._text(each.id), logprob=each.logprob, share=each.share)
            for each in found.candidates
        ]
        text = self._text(found.id)
        piece = "" if ends else self._stream.feed([found.id])
        self._last = found.id
        return PlayToken(id=found.id, piece=piece, text=text, logprob=found.logprob, candidates=candidates)

    def skip(self, tokens: Sequence[int]) -> None:
        """Decode a prompt that is not told."""
        self._stream.feed(tokens)
        self._last = tokens[-1]

    def _text(self, token: int) -> str:
        return spell(self._tokenizer, self._last, token)[0]


async def play(call: Call) -> Events:
    """Continue a text, or answer a chat."""
    body: PlayBody = call.body
    served = await call.service.models.get(body.model)
    seed = secrets.randbits(32) if body.seed is None else body.seed
    found = await prompt(served, body)
    request = Generation(
        found.tokens,
        body.sampling(served.model),
        seed,
        body.max_tokens,
        stops=body.stop,
        logprobs=body.candidates,
        echo=body.echo,
        weigh=True,
        draws=body.draws,
        **found.options,
    )
    reply = await served.submit([request], call.client)
    return Events(ReplyStream(reply, _told(served, request, found.dropped), dialect=Dialect.PLAIN))


def _told(served: ServedModel, request: Generation, dropped: int) -> Chunks:
    teller = Teller(served.model.tokenizer)
    scored: list[PlayToken] = []
    if not request.echo:
        teller.skip(request.prompt)
    begun, text, used = not request.echo, "", len(request.prompt)

    def chunks(events: Sequence[tuple[int, Event]]) -> Iterator[BaseModel]:
        nonlocal begun, text, used
        for _, found in events:
            if isinstance(found, Scored):
                scored.append(teller.tell(found))
                continue
            if not begun:
                begun = True
                yield PromptEvent(prompt=scored, dropped=dropped)
            text += found.text
            if isinstance(found, Finished):
                ending = teller.tell(found.ending, ends=True) if found.ending else None
                full = used > served.model.config.model.block_size
                yield EndEvent(end=End(reason=found.reason, text=text, ending=ending, full=full, seed=request.seed))
            else:
                used += 1
                yield TokenEvent(token=teller.tell(found))

    return chunks


async def score(call: Call) -> PromptEvent:
    """Each token of a text or chat, with the likeliest ones in its place."""
    body: PromptBody = call.body
    served = await call.service.models.get(body.model)
    found = await prompt(served, body)
    sampling = body.sampling(served.model)
    request = Generation(found.tokens, sampling, 0, 0, logprobs=body.candidates, echo=True, weigh=True, **found.options)
    teller, told = Teller(served.model.tokenizer), []
    async with await served.submit([request], call.client, whole=True) as reply:
        async for _, each in reply:
            if isinstance(each, Scored):
                told.append(teller.tell(each))
    return PromptEvent(prompt=told, dropped=found.dropped)


async def playable(call: Call) -> Playable:
    """A model's facts."""
    served = await call.service.models.get(call.request.path_params["model"])
    model = served.model
    tokenizer, roles = model.tokenizer, ("system", "user", "assistant")
    return Playable(
        name=served.name,
        chat=served.chat is not None,
        roles=[role for role in roles if role in tokenizer.special],
        block_size=model.config.model.block_size,
        vocab_size=tokenizer.vocab_size,
        parameters=model.n_params,
        temperature=model.config.run.temperature,
        tokenizer=tokenizer.kind,
        special=dict(tokenizer.special),
        end=chat_template.end_turn(tokenizer) if served.chat else tokenizer.bos,
        step=model.selection.step if model.selection else None,
    )


NO_MODEL = {404: "no model of that name"}
ROUTES = [
    Route("GET", "/api/play/{model:path}", playable, "A model to play with.", answer=Playable, statuses=NO_MODEL),
    Route(
        "POST",
        "/api/play",
        play,
        "Continue a text or answer a chat, token by token.",
        body=PlayBody,
        events=(PromptEvent, TokenEvent, EndEvent),
        statuses=NO_MODEL,
    ),
    Route("POST", "/api/score", score, "A text's tokens.", body=PromptBody, answer=PromptEvent, statuses=NO_MODEL),
]
