"""POST /v1/chat/completions: the answer to messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from microgpt.data import chat_template
from microgpt.inference.chat import ChatModel
from microgpt.serve import limits
from microgpt.serve.generation import FinishReason, Generation, seed_of
from microgpt.serve.openai.answer_format import Format, constraint, grammar
from microgpt.serve.openai.choices import Choice, Entry, Piece, Spelled, read
from microgpt.serve.openai.fields import ChoiceFields, SamplingFields, invalid
from microgpt.serve.openai.messages import Messages, chat_model, plain
from microgpt.serve.openai.prompts import conversation
from microgpt.serve.openai.shapes import Head, Usage, new_id, now, usage_of
from microgpt.serve.openai.streaming import Chunks, ReplyStream, chunks_of
from microgpt.serve.routes import Call, Events


class ChatCompletionBody(ChoiceFields):
    """A request of /v1/chat/completions."""

    messages: Messages
    max_tokens: limits.AnswerTokens | None = Field(None, description="the rest of the context by default")
    max_completion_tokens: limits.AnswerTokens | None = Field(None, description="the same by its newer name")
    logprobs: bool | None = None
    top_logprobs: limits.Logprobs | None = Field(None, description="alternatives per token; only with logprobs")
    response_format: Format | None = None


class TopLogprob(BaseModel):
    """A token and its log probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer, and the likeliest tokens in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """The tokens of an answer, by the model's own distribution."""

    content: list[TokenLogprob]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> ChatLogprobs:
        """Of tokens in turn."""
        return cls(
            content=[
                TokenLogprob(**_token(entry), top_logprobs=[TopLogprob(**_token(t)) for t in entry.top])
                for entry in entries
            ]
        )


def _token(spelled: Spelled) -> dict[str, Any]:
    data = None if spelled.bytes is None else list(spelled.bytes)
    return {"token": spelled.text, "logprob": spelled.logprob, "bytes": data}


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None


class ChatCompletion(Head):
    """An answer of /v1/chat/completions."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class FirstDelta(BaseModel):
    """The first chunk of a choice."""

    role: Literal["assistant"] = "assistant"
    content: Literal[""] = ""


class Delta(BaseModel):
    """What a further chunk adds."""

    content: str


class ChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: FirstDelta | Delta
    finish_reason: FinishReason | None
    logprobs: ChatLogprobs | None


class ChatChunk(Head):
    """A piece of a stream."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: Usage | None


async def chat(call: Call) -> ChatCompletion | Events:
    """Answer messages, n times."""
    body: ChatCompletionBody = call.body
    include_usage = body.check_stream_options()
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs", "only with logprobs: true")
    served = await call.service.models.get(body.model)
    model = chat_model(served)
    requests = await _generations(model, body)
    logprobs = bool(body.logprobs)
    choices = [Choice(i, model.tokenizer, logprobs=logprobs) for i in range(len(requests))]
    key, created = new_id("chatcmpl-"), now()
    reply = await served.submit(requests, call.client, whole=not body.stream)
    if body.stream:
        blank = ChatChunk(id=key, created=created, model=served.name, choices=[], usage=None)
        return Events(ReplyStream(reply, _chunks(blank, choices, include_usage, logprobs)))
    wholes = await read(reply, choices)
    found = [
        ChatChoice(
            index=i,
            message=AnswerMessage(content=whole.text),
            finish_reason=whole.end.reason,
            logprobs=ChatLogprobs.of(whole.entries) if logprobs else None,
        )
        for i, whole in enumerate(wholes)
    ]
    usage = usage_of([whole.end for whole in wholes], len(wholes))
    return ChatCompletion(id=key, created=created, model=served.name, choices=found, usage=usage)


async def _generations(model: ChatModel, body: ChatCompletionBody) -> list[Generation]:
    """Raises ApiError."""
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise invalid("max_completion_tokens", "max_tokens says otherwise; give one of the two")
    tokens = await conversation(model, plain(body.messages, "messages"), "messages")
    shape = await grammar(model, body.response_format, "response_format")
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    seed = body.first_seed()
    biases = body.biases(model)
    return [
        answering(
            model,
            tokens,
            body,
            seed_of(seed, i),
            max_tokens=most,
            mask=constraint(shape, model, tokens, most),
            stops=body.stops(),
            logit_bias=biases,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )
        for i in range(body.n or 1)
    ]


def answering(
    model: ChatModel, tokens: Sequence[int], body: SamplingFields, seed: int, **options: object
) -> Generation:
    """The generation that `ChatModel.reply` does."""
    return Generation(
        tokens,
        body.sampling(model),
        seed,
        stop_token=chat_template.end_turn(model.tokenizer),
        never=chat_template.never_sampled(model.tokenizer),
        allow_empty=False,
        **options,  # type: ignore[arg-type]
    )


def _chunks(blank: ChatChunk, choices: Sequence[Choice], include_usage: bool, logprobs: bool) -> Chunks:
    """The role of every choice first, then its pieces; the usage comes last, with the last end or as asked."""

    def chunk_of(piece: Piece, delta: FirstDelta | None = None) -> ChatChunk:
        choice = ChunkChoice(
            index=piece.number,
            delta=delta or Delta(content=piece.text),
            finish_reason=piece.finish_reason,
            logprobs=ChatLogprobs.of(piece.entries) if logprobs and piece.entries else None,
        )
        return blank.model_copy(update={"choices": [choice]})

    def opening(number: int) -> ChatChunk:
        return chunk_of(Piece(number, ""), FirstDelta())

    n = len(choices)
    return chunks_of(choices, chunk_of, blank, n, include_usage=include_usage, logprobs=logprobs, opening=opening)
