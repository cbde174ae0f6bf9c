"""A chat model that answers: one reply for the terminal, the server and Python programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from microgpt.data import chat_template
from microgpt.data.conversations import Message, check_messages
from microgpt.errors import UsageError
from microgpt.inference.generate import decode_stream, stop_at
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling


class Reply:
    """An answer that is written while it is read: iterate over it for its pieces of text, once."""

    def __init__(self, prompt: chat_template.Prompt, pieces: Iterator[str]) -> None:
        self.prompt_tokens = len(prompt.tokens)
        self.tokens_dropped = prompt.dropped  # of the conversation, at its front, where it was too long
        self.completion_tokens = 0
        self.finish_reason: str | None = None  # "stop": the model or a stop ended it; "length": no more room
        self.text = ""  # so far
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self.text += piece
            yield piece

    def read(self) -> str:
        """The whole answer."""
        for _ in self:
            pass
        return self.text


class ChatModel:
    """A chat model, ready to answer. Raises UsageError for a model that never saw a conversation."""

    def __init__(self, model: LanguageModel) -> None:
        if not chat_template.can_chat(model.tokenizer):
            raise UsageError(
                f"{model.path}: not a chat model, its tokenizer has no turns; let it write with microgpt generate, "
                f"or train one with microgpt train chat"
            )
        self.model = model

    @classmethod
    def open(cls, path: Any, **engine: Any) -> ChatModel:
        """A model by its folder. Raises CheckpointError or UsageError."""
        return cls(LanguageModel.open(path, **engine))

    def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        rng: Random,
        *,
        max_tokens: int | None = None,
        stops: Sequence[str] = (),
    ) -> Reply:
        """The answer to a conversation, until the model ends its turn, a stop, max_tokens or a full context.

        Raises DataError for a character that the model does not know, with the message's number.
        """
        model, tokenizer = self.model, self.model.tokenizer
        block = model.config.model.block_size
        prompt = chat_template.prompt(messages, tokenizer, block)
        length = len(prompt.tokens)
        max_length = block if max_tokens is None else min(block, length + max_tokens - 1)
        drawn = chat_template.answer(model.engine, model.state, tokenizer, prompt.tokens, max_length, sampling, rng)

        def counted() -> Iterator[int]:
            for token in drawn:
                reply.completion_tokens += 1
                yield token
            if length + reply.completion_tokens > max_length:
                reply.finish_reason = "length"

        def watched() -> Iterator[str]:
            yield from stop_at(decode_stream(tokenizer, counted()), stops)
            reply.finish_reason = reply.finish_reason or "stop"

        reply = Reply(prompt, watched())
        return reply

    def answer(
        self,
        messages: str | Sequence[Message | dict[str, str]],
        *,
        seed: int | None = None,
        max_tokens: int | None = None,
        **sampling: Any,
    ) -> Reply:
        """The answer to a question, or to messages: `for piece in model.answer("Why?", temperature=0): …`.

        Raises DataError for messages that are none.
        """
        if isinstance(messages, str):
            messages = [Message("user", messages)]
        asked = [m._asdict() if isinstance(m, Message) else m for m in messages]
        chosen = Sampling(**{"temperature": self.model.config.run.temperature, **sampling})
        checked = check_messages(asked, "messages")
        return self.reply(checked, chosen, self.model.rng(seed), max_tokens=max_tokens)
