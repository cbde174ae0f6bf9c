"""Conversation → tokens: the one rendering that training, terminal, server and other programs share.

    BOS  user  text  end_turn  assistant  text  end_turn  …

Roles and end_turn are tokens of their own, which no text can become: texts are encoded apart from them. `TEMPLATE`
says the same to programs that read a model folder. A conversation that does not fit loses whole turns from its
front, in training as in a reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from microgpt.data.conversations import Conversation, Message, Role
from microgpt.errors import DataError
from microgpt.tokenizers import BOS, Tokenizer

END_TURN = "end_turn"
SMALLEST_BLOCK = 16  # tokens of context below which no question and answer fit

# The rendering in Jinja, for programs that open the model folder: the file chat_template.jinja.
TEMPLATE = (
    "{{ '" + BOS + "' }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('role ' + message['role'] + '; expected system, user or assistant') }}"
    "{% endif %}"
    "{{ '<' + message['role'] + '>' + message['content'] + '<" + END_TURN + ">' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


class Turn(NamedTuple):
    """A message as tokens: its role's, its text's, end_turn."""

    role: Role
    tokens: list[int]


class Prompt(NamedTuple):
    """What an answer is asked with."""

    tokens: list[int]
    dropped: int  # tokens of the conversation that were left out at its front


class Row(NamedTuple):
    """A row to train on."""

    tokens: list[int]
    scored: list[bool]  # whether a token counts in the loss


def can_chat(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has the tokens of a conversation."""
    return {"user", "assistant", END_TURN} <= tokenizer.special.keys()


def end_turn(tokenizer: Tokenizer) -> int:
    """The token that ends a message."""
    return tokenizer.special[END_TURN]


def never_sampled(tokenizer: Tokenizer) -> list[int]:
    """The tokens that no answer holds: all special ones but end_turn."""
    return sorted({tokenizer.bos, *tokenizer.special.values()} - {end_turn(tokenizer)})


def turn(message: Message, tokenizer: Tokenizer) -> Turn:
    """A message's tokens. Raises DataError for a character that the tokenizer does not know."""
    special = tokenizer.special
    if message.role not in special:
        raise DataError(f"this model knows no role {message.role!r}; it has {', '.join(sorted(special))}")
    text = tokenizer.encode(message.content).tolist()
    return Turn(message.role, [special[message.role], *text, special[END_TURN]])


def prompt(messages: Sequence[Message], tokenizer: Tokenizer, block_size: int) -> Prompt:
    """The tokens that ask for an answer to a conversation, cut so that a quarter of the context is left for it.

    Raises DataError with the message's number.
    """
    turns = []
    for n, message in enumerate(messages, start=1):
        try:
            turns.append(turn(message, tokenizer))
        except DataError as error:
            raise DataError(f"message {n}: {error}", error.code) from None
    kept, dropped = fit(turns, room(block_size))
    found = [token for turn in kept for token in turn.tokens]
    return Prompt([tokenizer.bos, *found, tokenizer.special["assistant"]], dropped)


def room(block_size: int) -> int:
    """Tokens of context for the turns before an answer: what a quarter of the block, BOS and role leave."""
    return block_size - block_size // 4 - 2


def fit(turns: Sequence[Turn], room: int) -> tuple[list[Turn], int]:
    """The last turns that `room` tokens hold, and how many tokens were left out.

    Whole turns go from the front; a system message that leads stays, while it takes at most half of the room;
    the last turn is never lost whole: it keeps its role and its end.
    """
    total = sum(len(turn.tokens) for turn in turns)
    lead = list(turns[:1]) if len(turns) > 1 and turns[0].role == "system" else []
    if lead and len(lead[0].tokens) > room // 2:
        lead = []
    kept, left = list(turns[len(lead) :]), room - sum(len(turn.tokens) for turn in lead)
    while len(kept) > 1 and sum(len(turn.tokens) for turn in kept) > left:
        kept.pop(0)
    if kept and len(kept[0].tokens) > left:
        role, long = kept[0]
        kept = [Turn(role, [long[0], *long[len(long) - left + 1 :]])]
    kept = lead + kept
    return kept, total - sum(len(turn.tokens) for turn in kept)


def rows(
    conversation: Conversation, tokenizer: Tokenizer, block_size: int, *, score: str = "assistant"
) -> Iterator[Row]:
    """The rows that train on a conversation: one if it fits, else one for each stretch of it.

    Each row shows what a reply would see: the turns before the first answer that is not yet trained on, fitted as
    for a reply, then that answer, cut at the block's end, and the turns after it while they fit whole. `score`
    "assistant" scores the answers and their end_turn, "all" every turn; none is scored twice.
    Raises DataError with the message's number.
    """
    turns = []
    for n, message in enumerate(conversation, start=1):
        try:
            turns.append(turn(message, tokenizer))
        except DataError as error:
            raise DataError(f"message {n}: {error}", error.code) from None
    done = 0  # turns that are trained on
    while answers := [i for i in range(done, len(turns)) if turns[i].role == "assistant"]:
        answer = answers[0]
        history, _ = fit(turns[:answer], room(block_size))
        row = Row([tokenizer.bos], [False])
        for i, one in enumerate([*history, *turns[answer:]], start=answer - len(history)):
            if i > answer and len(row.tokens) + len(one.tokens) > block_size + 1:
                break
            leads = one is turns[0]  # a system message in front of turns that were left out
            _add(row, one, fresh=done == 0 if leads else i >= done, score=score)
            end = i + 1
        yield Row(row.tokens[: block_size + 1], row.scored[: block_size + 1])
        done = end


def _add(row: Row, turn: Turn, *, fresh: bool, score: str) -> None:
    """Append a turn to a row; a fresh one is scored, as `score` says."""
    scored = fresh and (score == "all" or turn.role == "assistant")
    row.tokens.extend(turn.tokens)
    row.scored.extend([scored and score == "all"] + [scored] * (len(turn.tokens) - 1))  # who answers is given


def tokenizer_config(block_size: int) -> dict[str, Any]:
    """tokenizer_config.json of a chat model, as Hugging Face's tools read it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": f"<{END_TURN}>",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }
