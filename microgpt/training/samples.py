"""Samples of a model in training: texts, or of a chat model short exchanges with questions of its conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from microgpt.data import chat_template
from microgpt.data.conversations import Conversation
from microgpt.data.corpus import Corpus
from microgpt.inference.chat import ChatModel
from microgpt.inference.language_model import LanguageModel

TEXTS, EXCHANGES = 20, 3  # at the end of training, unless a number is given
QUESTIONS, LINE, ANSWER_TOKENS = 8, 100, 60  # an exchange is short: a question of a line if one of these many has one


def how_many(model: LanguageModel) -> int:
    """The number of samples at the end of training."""
    given = model.config.run.samples
    if given is not None:
        return given
    return EXCHANGES if chat_template.can_chat(model.tokenizer) else TEXTS


def draw(model: LanguageModel, corpus: Corpus, rng: Random, n: int, pause: Callable[[], None]) -> list[str]:
    """Documents that the model generates, or its answers to questions of the corpus. `pause` is called by the way."""
    texts: list[str] = []
    while len(texts) < n and (asked := _question(corpus, rng)):
        texts.append(_exchange(ChatModel(**vars(model)), asked, rng, pause))
    if texts:
        return texts
    return [_read(pieces, pause) for pieces in model.texts([model.tokenizer.bos], n, model.sampling(), rng)]


def _question(corpus: Corpus, rng: Random) -> Conversation:
    """A question of the conversations: the first of a few that is at most a line, else the shortest of them."""
    shortest = corpus.example_prompt(rng)
    for _ in range(QUESTIONS - 1):
        if _length(shortest) <= LINE:
            break
        shortest = min(shortest, corpus.example_prompt(rng), key=_length)
    return shortest


def _length(question: Conversation) -> int:
    """The number of characters of a question."""
    return sum(len(message.content) for message in question)


def _exchange(model: ChatModel, question: Conversation, rng: Random, pause: Callable[[], None]) -> str:
    """A question and the model's answer, or the beginning of a long one."""
    asked = "\n".join(message.content for message in question)
    reply = model.reply(question, model.sampling(), rng, max_tokens=ANSWER_TOKENS)
    text = _read(reply, pause)
    return f"> {asked}\n{text}{' …' * (reply.completion_tokens == ANSWER_TOKENS)}\n"


def _read(pieces: Iterable[str], pause: Callable[[], None]) -> str:
    """A text while it is generated; a signal ends it between two pieces."""
    text = ""
    for piece in pieces:
        pause()
        text += piece
    return text
