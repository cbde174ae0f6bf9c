"""A chat model that answers: one reply for the terminal, samples during training, the server and Python programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from microgpt.data import chat_template
from microgpt.data.conversations import Message, check_messages
from microgpt.errors import UsageError
from microgpt.inference.language_model import Completion, LanguageModel
from microgpt.inference.sampling import Sampling


def load(path: Path | str, **options: Any) -> LanguageModel:
    """The model of a run, checkpoint or exported folder: a ChatModel where it was trained on conversations.

    `checkpoint`, `engine`, `dtype` and `device` are as in LanguageModel.open. Raises CheckpointError or UsageError.
    """
    return load_all([path], **options)[0]


def load_all(paths: Sequence[Path | str], **options: Any) -> tuple[LanguageModel, list[str]]:
    """As `load`, of several models as one, and notes on them; see LanguageModel.open_all."""
    model, notes = LanguageModel.open_all(paths, **options)
    return ChatModel(**vars(model)) if chat_template.can_chat(model.tokenizer) else model, notes


@dataclass(frozen=True)
class ChatModel(LanguageModel):
    """A model that answers messages. Raises UsageError for one that was not trained on conversations."""

    def __post_init__(self) -> None:
        if not chat_template.can_chat(self.tokenizer):
            raise UsageError(
                f"{self.path}: not a chat model, its tokenizer has no roles; use microgpt generate, or train a chat "
                "model with microgpt train chat"
            )

    def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        rng: Random,
        *,
        max_tokens: int | None = None,
        stops: Sequence[str] = (),
    ) -> Completion:
        """The answer to a conversation, until the model ends its turn, a stop, max_tokens or a full context.

        Raises DataError for a character that the tokenizer does not know, with the message's number.
        """
        prompt = chat_template.prompt(messages, self.tokenizer, self.config.model.block_size)
        return self.stream(
            prompt.tokens,
            sampling,
            rng,
            max_tokens=max_tokens,
            stop_token=chat_template.end_turn(self.tokenizer),
            never=chat_template.never_sampled(self.tokenizer),
            allow_empty=False,
            stops=stops,
            tokens_dropped=prompt.dropped,
        )

    def answer(
        self,
        messages: str | Sequence[Message | dict[str, str]],
        *,
        seed: int | None = None,
        max_tokens: int | None = None,
        **sampling: Any,
    ) -> Completion:
        """The answer to a question, or to messages: `for piece in model.answer("Why?", temperature=0): …`.

        `.read()` gives it whole. Raises DataError for messages that are not valid.
        """
        if isinstance(messages, str):
            messages = [Message("user", messages)]
        given = [m._asdict() if isinstance(m, Message) else m for m in messages]
        checked = check_messages(given, "messages")
        return self.reply(checked, self.sampling(**sampling), self.rng(seed), max_tokens=max_tokens)
