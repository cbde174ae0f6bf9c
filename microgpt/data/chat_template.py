"""Conversation → tokens: the one rendering that training, terminal, server and other programs share.

    BOS  user  text  end_turn  assistant  text  end_turn  …

Roles and end_turn are tokens of their own, which no text can become: texts are encoded apart from them. `TEMPLATE`
says the same to programs that read a model folder. Of a conversation that does not fit,
whole turns are dropped from its beginning, in training as in a reply.
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
    unknown: list[str]  # the text that each <unk> stands for; at end_turn, the text that was left out; else empty


class Prompt(NamedTuple):
    """The tokens that an answer continues."""

    tokens: list[int]
    dropped: int  # tokens of the conversation that were dropped from its beginning


class Row(NamedTuple):
    """A row to train on."""

    tokens: list[int]
    scored: list[bool]  # whether a token counts in the loss
    unknown: list[str]  # as of Turn


def can_chat(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has the tokens of a conversation."""
    return {"user", "assistant", END_TURN} <= tokenizer.special.keys()


def end_turn(tokenizer: Tokenizer) -> int:
    """The token that ends a message."""
    return tokenizer.special[END_TURN]


def never_sampled(tokenizer: Tokenizer) -> list[int]:
    """The tokens that are never sampled in an answer: all special ones except end_turn."""
    return sorted({tokenizer.bos, *tokenizer.special.values()} - {end_turn(tokenizer)})


def turn(message: Message, tokenizer: Tokenizer, *, unk: bool = False) -> Turn:
    """A message's tokens. Raises DataError for a character that the tokenizer does not know."""
    special = tokenizer.special
    if message.role not in special:
        raise DataError(f"this model knows no role {message.role!r}; it has {', '.join(sorted(special))}")
    text = tokenizer.encode(message.content, unk=unk).tolist()
    tokens = [special[message.role], *text, special[END_TURN]]
    parts = tokenizer.unknown_parts(message.content)
    if "unk" not in special:
        return Turn(message.role, tokens, [*[""] * (len(tokens) - 1), "".join(parts)])
    part = iter(parts)
    return Turn(message.role, tokens, [next(part) if token == special["unk"] else "" for token in tokens])


def _turns(messages: Sequence[Message], tokenizer: Tokenizer, *, unk: bool = False) -> list[Turn]:
    """The tokens of messages. Raises DataError with the message's number."""
    turns = []
    for n, message in enumerate(messages, start=1):
        try:
            turns.append(turn(message, tokenizer, unk=unk))
        except DataError as error:
            raise DataError(f"message {n}: {error}", error.code) from None
    return turns


def prompt(messages: Sequence[Message], tokenizer: Tokenizer, block_size: int) -> Prompt:
    """The tokens of a conversation and the role of its answer, cut so that a quarter of the context is left for it.

    Raises DataError with the message's number.
    """
    kept, dropped = fit(_turns(messages, tokenizer), prompt_length(block_size))
    found = [token for turn in kept for token in turn.tokens]
    return Prompt([tokenizer.bos, *found, tokenizer.special["assistant"]], dropped)


def prompt_length(block_size: int) -> int:
    """Tokens of context for the turns before an answer: three quarters of the block, less BOS and role."""
    return block_size - block_size // 4 - 2


def fit(turns: Sequence[Turn], max_length: int) -> tuple[list[Turn], int]:
    """The last turns that fit into `max_length` tokens, and the number of tokens dropped.

    Whole turns go from the front; a system message that leads stays, while it takes at most half of that length;
    the last turn is never dropped: if it is too long, it keeps its role and its end.
    """
    total = sum(len(turn.tokens) for turn in turns)
    lead = list(turns[:1]) if len(turns) > 1 and turns[0].role == "system" else []
    if lead and len(lead[0].tokens) > max_length // 2:
        lead = []
    left = max_length - sum(len(turn.tokens) for turn in lead)
    first, size = len(lead), sum(len(turn.tokens) for turn in turns[len(lead) :])
    while len(turns) - first > 1 and size > left:
        size -= len(turns[first].tokens)
        first += 1
    kept = list(turns[first:])
    if kept and len(kept[0].tokens) > left:
        role, long, unknown = kept[0]
        cut = slice(len(long) - left + 1, None)
        kept = [Turn(role, [long[0], *long[cut]], [unknown[0], *unknown[cut]])]
    kept = lead + kept
    return kept, total - sum(len(turn.tokens) for turn in kept)


def rows(
    conversation: Conversation, tokenizer: Tokenizer, block_size: int, *, score: str = "assistant", unk: bool = False
) -> Iterator[Row]:
    """The rows that train on a conversation: one if it fits, else several.

    Each row shows what a reply would see: the turns before the first answer that is not yet trained on, fitted as
    for a reply, then that answer, cut at the block's end, and the turns after it while they fit whole. `score`
    "assistant" scores the answers and their end_turn, "all" every turn; none is scored twice.
    Raises DataError with the message's number.
    """
    turns = _turns(conversation, tokenizer, unk=unk)
    done = 0  # turns trained on so far
    while answers := [i for i in range(done, len(turns)) if turns[i].role == "assistant"]:
        answer = answers[0]
        history, _ = fit(turns[:answer], prompt_length(block_size))
        row = Row([tokenizer.bos], [False], [""])
        for i, one in enumerate([*history, *turns[answer:]], start=answer - len(history)):
            if i > answer and len(row.tokens) + len(one.tokens) > block_size + 1:
                break
            leads = one is turns[0]  # a system message before turns that were dropped
            _add(row, one, fresh=done == 0 if leads else i >= done, score=score)
            end = i + 1
        cut = slice(block_size + 1)
        yield Row(row.tokens[cut], row.scored[cut], row.unknown[cut])
        done = end


def _add(row: Row, turn: Turn, *, fresh: bool, score: str) -> None:
    """Append a turn to a row; `fresh` marks one that no earlier row has scored."""
    scored = fresh and (score == "all" or turn.role == "assistant")
    row.tokens.extend(turn.tokens)
    row.unknown.extend(turn.unknown)
    row.scored.extend([scored and score == "all"] + [scored] * (len(turn.tokens) - 1))  # the role of an answer is given


def tokenizer_config(block_size: int) -> dict[str, Any]:
    """tokenizer_config.json of a chat model, as Hugging Face's tools read it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": f"<{END_TURN}>",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
    }
