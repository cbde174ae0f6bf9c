"""A text, its token ids, or the turns of a chat and an answer's beginning → the tokens that a text goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from microgpt.data import chat_template
from microgpt.data.conversations import Message, Role
from microgpt.errors import DataError
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling
from microgpt.serve import limits
from microgpt.serve.limits import length
from microgpt.serve.models import ServedModel, in_thread
from microgpt.serve.openai.fields import Shape, invalid
from microgpt.serve.openai.messages import chat_model, told
from microgpt.serve.openai.prompts import LONG, fits, given
from microgpt.serve.openai.tokens import TokenId


class PlayTurn(Shape):
    """A turn of a chat: its text, or the tokens of one that was generated."""

    role: Role
    content: str | None = None
    tokens: list[TokenId] | None = None


class PromptBody(Shape):
    """Exactly one of text, tokens and turns; `answer` are tokens that have been generated after it."""

    model: limits.Name | None = Field(None, description="a run, or RUN@STEP; the first run by default")
    text: str | None = Field(None, description="a text to continue; what the context cannot hold is left out in front")
    tokens: list[TokenId] | None = Field(None, description="a text as token ids, without BOS")
    turns: Annotated[list[PlayTurn], length("messages")] | None = Field(None, description="a chat to answer")
    answer: list[TokenId] = Field([], description="the tokens of the answer's beginning")
    temperature: limits.Temperature | None = Field(None, description="the model's own by default")
    top_k: limits.TopK = 0
    top_p: limits.TopP = 1.0
    min_p: limits.MinP = 0.0
    repetition_penalty: limits.RepetitionPenalty = 1.0
    candidates: limits.Logprobs = Field(10, description="the likeliest tokens told per token")

    def sampling(self, model: LanguageModel) -> Sampling:
        """As the terminal draws with the same flags."""
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return model.sampling(**{name: value for name in names if (value := getattr(self, name)) is not None})


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens, BOS first, and the options of a Generation that goes on from them."""

    tokens: list[int]
    dropped: int  # tokens that were left out in front
    options: dict[str, Any]


async def prompt(served: ServedModel, body: PromptBody) -> Prompt:
    """The tokens of a body. Raises ApiError."""
    if sum(each is not None for each in (body.text, body.tokens, body.turns)) != 1:
        raise invalid("text", "give one of text, tokens and turns")
    model, answer = served.model, given(served.model, body.answer, "answer")[1:]
    options: dict[str, Any] = {}
    try:
        if body.turns is not None:
            turns, tokenizer = body.turns, chat_model(served).tokenizer
            long = sum(len(turn.content or "") for turn in turns) > LONG
            found, dropped = await in_thread(lambda: _chat(model, turns)) if long else _chat(model, turns)
            options = {
                "stop_token": chat_template.end_turn(tokenizer),
                "never": chat_template.never_sampled(tokenizer),
                "allow_empty": bool(answer),
            }
        elif body.text is not None:
            text = body.text
            found, dropped = await in_thread(lambda: model.encode(text)) if len(text) > LONG else model.encode(text)
        else:
            found, dropped = given(model, body.tokens or [], "tokens"), 0
    except DataError as error:
        raise invalid("text" if body.turns is None else "turns", str(error).removeprefix("prompt: ")) from None
    fits(model, [*found, *answer], "tokens" if body.turns is None else "turns")
    return Prompt([*found, *answer], dropped, options)


def _chat(model: LanguageModel, turns: list[PlayTurn]) -> tuple[list[int], int]:
    """The tokens of turns and of the answer's role; the first turns are left out where the context cannot hold all."""
    tokenizer, rendered = model.tokenizer, []
    for i, one in enumerate(turns):
        if (one.content is None) == (one.tokens is None):
            raise invalid(f"turns[{i}]", "give either content or tokens")
        if one.content is not None:
            message = Message(one.role, told(f"turns[{i}].content", one.content))
            rendered.append(chat_template.turn(message, tokenizer))
        elif one.role not in tokenizer.special:
            raise invalid(f"turns[{i}].role", f"this model knows no role {one.role!r}")
        else:
            ids = given(model, one.tokens or [], f"turns[{i}].tokens")[1:]
            tokens = [tokenizer.special[one.role], *ids, chat_template.end_turn(tokenizer)]
            rendered.append(chat_template.Turn(one.role, tokens, []))
    most = model.config.model.block_size - 2
    if sum(len(one.tokens) for one in rendered) > most:
        most = chat_template.prompt_length(model.config.model.block_size)
    kept, dropped = chat_template.fit(rendered, most)
    found = [token for one in kept for token in one.tokens]
    return [tokenizer.bos, *found, tokenizer.special["assistant"]], dropped
