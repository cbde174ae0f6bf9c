"""POST /v1/completions: texts that continue prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field

from microgpt.serve import limits
from microgpt.serve.generation import FinishReason, Generation, seed_of
from microgpt.serve.limits import length, most
from microgpt.serve.models import ServedModel
from microgpt.serve.openai.choices import Choice, Entry, Piece, Whole, read
from microgpt.serve.openai.fields import ChoiceFields, invalid, one_of
from microgpt.serve.openai.prompts import encode, fits, given
from microgpt.serve.openai.shapes import Head, Usage, new_id, now, usage_of
from microgpt.serve.openai.streaming import Chunks, ReplyStream, chunks_of
from microgpt.serve.routes import Call, Events

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
Prompt = Annotated[
    str
    | Annotated[list[str], length("prompts")]
    | Annotated[list[TokenId], Field(min_length=1)]
    | Annotated[list[list[TokenId]], length("prompts")],
    one_of(f"a text, token ids, or a list of 1 to {most('prompts')} of either"),
]


class CompletionBody(ChoiceFields):
    """A request of /v1/completions."""

    prompt: Prompt = Field(description="texts, or token ids, before which BOS is put unless they begin with it")
    max_tokens: limits.MaxTokens | None = Field(None, description="the rest of the context by default")
    echo: bool | None = None
    logprobs: limits.Logprobs | None = None


class Logprobs(BaseModel):
    """The tokens of a completion, after those of its prompt if it was echoed.

    In natural logarithms, by the model's own distribution. BOS is not among them, unless the prompt was given as ids
    that begin with it.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Logprobs:
        """Of tokens in turn."""
        return cls(
            tokens=[entry.text for entry in entries],
            token_logprobs=[entry.logprob for entry in entries],
            top_logprobs=[_top(entry) for entry in entries],
            text_offset=[entry.offset for entry in entries],
        )


def _top(entry: Entry) -> dict[str, float] | None:
    """The likeliest tokens, and the token itself."""
    if entry.logprob is None:
        return None
    found = {other.text: other.logprob for other in reversed(entry.top) if other.logprob is not None}
    return dict(reversed(found.items())) | {entry.text: entry.logprob}


class CompletionChoice(BaseModel):
    """A completion, or in a stream a piece of one."""

    index: int
    text: str
    finish_reason: FinishReason | None
    logprobs: Logprobs | None


class Completion(Head):
    """An answer of /v1/completions, or a piece of its stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    usage: Usage | None


class _Prompt(NamedTuple):
    """A prompt as the model takes it."""

    tokens: list[int]
    text: str
    lists_bos: bool  # whether BOS is a token of the request's own


async def completions(call: Call) -> Completion | Events:
    """Continue each prompt n times; the choices of a prompt stand together."""
    body: CompletionBody = call.body
    include_usage = body.check_stream_options()
    served = await call.service.models.get(body.model)
    n, logprobs, seed = body.n or 1, body.logprobs is not None, body.first_seed()
    requests: list[Generation] = []
    choices: list[Choice] = []
    for prompt in await _prompts(served, body, n):
        for _ in range(n):
            requests.append(_generation(served, body, prompt, seed_of(seed, len(requests))))
            echo = prompt.text if body.echo else None
            choices.append(Choice(len(choices), served.model.tokenizer, logprobs=logprobs, echo=echo))
    blank = Completion(id=new_id("cmpl-"), created=now(), model=served.name, choices=[], usage=None)
    reply = await served.submit(requests, call.client, whole=not body.stream)
    if body.stream:
        return Events(ReplyStream(reply, _chunks(blank, choices, n, include_usage, logprobs)))
    wholes = await read(reply, choices)
    found = [_choice(i, whole, logprobs) for i, whole in enumerate(wholes)]
    return blank.model_copy(update={"choices": found, "usage": usage_of([whole.end for whole in wholes], n)})


async def _prompts(served: ServedModel, body: CompletionBody, n: int) -> list[_Prompt]:
    """Every prompt. Raises ApiError."""
    prompt, model = body.prompt, served.model
    one = isinstance(prompt, str) or isinstance(prompt[0], int)
    each: list[str | list[int]] = [prompt] if one else prompt  # type: ignore[assignment, list-item]
    if len(each) * n > most("choices"):
        raise invalid("n", f"{len(each)} prompts times {n} choices; expected at most {most('choices')} in all")
    found = []
    for i, item in enumerate(each):
        where = "" if one else f"the prompt at {i}: "
        if isinstance(item, str):
            one_prompt = _Prompt(await encode(model, item, "prompt", where), item, False)
        else:
            tokens = given(model, item, "prompt", where)
            one_prompt = _Prompt(tokens, model.tokenizer.decode(item), tokens == item)
        fits(model, one_prompt.tokens, "prompt", where)
        found.append(one_prompt)
    return found


def _generation(served: ServedModel, body: CompletionBody, prompt: _Prompt, seed: int) -> Generation:
    return Generation(
        prompt.tokens,
        body.sampling(served.model),
        seed,
        body.max_tokens,
        stops=body.stops(),
        logit_bias=body.biases(served.model),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logprobs=body.logprobs,
        echo=bool(body.echo) and body.logprobs is not None,
        lists_bos=prompt.lists_bos,
    )


def _choice(index: int, whole: Whole, logprobs: bool) -> CompletionChoice:
    found = Logprobs.of(whole.entries) if logprobs else None
    return CompletionChoice(index=index, text=whole.text, finish_reason=whole.end.reason, logprobs=found)


def _chunks(blank: Completion, choices: Sequence[Choice], n: int, include_usage: bool, logprobs: bool) -> Chunks:
    """The pieces of all choices; the usage comes last, with the last end or, if asked for, in an event of its own."""

    def chunk_of(piece: Piece) -> Completion:
        choice = CompletionChoice(
            index=piece.number,
            text=piece.text,
            finish_reason=piece.finish_reason,
            logprobs=Logprobs.of(piece.entries) if logprobs else None,
        )
        return blank.model_copy(update={"choices": [choice]})

    return chunks_of(choices, chunk_of, blank, n, include_usage=include_usage, logprobs=logprobs)
