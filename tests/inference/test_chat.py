"""The same answer by terminal, Python and every engine; what is never sampled; what is said about it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.engines.ladder import LADDER, engine
from microgpt.errors import DataError, MachineError, UsageError
from microgpt.inference import language_model
from microgpt.inference.chat import ChatModel
from microgpt.inference.generate import generate_tokens
from microgpt.inference.sampling import Sampling
from microgpt.runs import checkpoint

QUESTIONS = ["hi", "how are you", "bye", "who are you"]


@pytest.fixture(scope="module")
def model(chat_run: Path) -> ChatModel:
    return ChatModel.open(chat_run)


def test_it_learnt_to_answer(model: ChatModel) -> None:
    assert model.answer("hi", temperature=0).read() == "hello there"


@pytest.mark.parametrize("name", LADDER)
def test_the_same_answer_by_terminal_python_and_every_engine(
    model: ChatModel, chat_run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        engine(name)
    except MachineError:
        pytest.skip(f"{name} is not installed")
    other = ChatModel.open(chat_run, engine=name)
    for question in QUESTIONS:
        expected = model.answer(question, temperature=0).read()
        assert other.answer(question, temperature=0).read() == expected
    assert main(["chat", str(chat_run), "-p", "who are you", "--temperature", "0", "--engine", name]) == 0
    assert capsys.readouterr().out == expected + "\n"


def test_json_and_what_was_counted(model: ChatModel, chat_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(chat_run), "-p", "how are you", "--temperature", "0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    reply = model.answer([{"role": "user", "content": "how are you"}], temperature=0)
    assert answer == {
        "role": "assistant",
        "content": reply.read(),
        "tokens_dropped": 0,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "finish_reason": "stop",
        "checkpoint": {"kind": "last", "step": 150, "last": 150},
    }
    assert reply.prompt_tokens == len("how are you") + 4
    assert reply.completion_tokens == len(reply.text)


def test_why_it_ended(model: ChatModel) -> None:
    cut = model.answer("hi", temperature=0, max_tokens=5)
    assert cut.read() == "hello"
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 5)
    stopped = model.reply([Message("user", "hi")], Sampling(0), Random(1), stops=[" "])
    assert (stopped.read(), stopped.finish_reason) == ("hello", "stop")


def test_seeds_and_repetition(model: ChatModel) -> None:
    def texts(seed: int) -> list[str]:
        return [model.answer(q, temperature=3.0, seed=seed, max_tokens=20).read() for q in QUESTIONS]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_a_question_longer_than_the_context_keeps_its_end(model: ChatModel) -> None:
    reply = model.answer("hi " * 50 + "how are you", temperature=0)
    assert reply.tokens_dropped == 161 + 4 - (64 - 16)
    assert reply.prompt_tokens == 64 - 16
    assert reply.read()


class Wants:
    """An engine that always wants one token most, then the next larger one."""

    def __init__(self, vocab_size: int, first: int) -> None:
        self.scores = np.roll(np.arange(vocab_size, 0, -1.0), first)[None]

    def logits(self, state: object, tokens: np.ndarray, cache: object = None) -> tuple[np.ndarray, object]:
        return np.repeat(self.scores, len(tokens), axis=0), cache


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_special_tokens_are_never_sampled_and_end_turn_not_first(
    model: ChatModel, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = model.tokenizer
    special = set(tokenizer.special.values())
    drawn: list[int] = []
    monkeypatch.setattr(
        language_model, "decode_stream", lambda _, tokens: (str(drawn.append(token)) for token in tokens)
    )
    for id in special:
        drawn.clear()
        wants = dataclasses.replace(model, engine=Wants(tokenizer.vocab_size, id))
        wants.reply([Message("user", "hi")], Sampling(temperature), Random(3)).read()
        assert drawn
        assert special.isdisjoint(drawn)
        if id == chat_template.end_turn(tokenizer) and temperature == 0:
            assert len(drawn) == 1  # the second time, it may end


def test_without_bans_nothing_changes() -> None:
    wants = Wants(8, 5)
    drawn = list(generate_tokens(wants, None, [0], 3, Sampling(0), Random(1), 7))  # type: ignore[arg-type]
    assert drawn == [5, 5, 5]


def test_messages_are_checked(model: ChatModel) -> None:
    with pytest.raises(DataError, match="messages: message 1: role"):
        model.answer([{"role": "tool", "content": "x"}])
    with pytest.raises(DataError, match=r"message 1: character 'é'"):
        model.answer("é")


def test_a_model_that_cannot_chat_is_refused(names_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="not a chat model"):
        ChatModel.open(names_run)
    assert main(["chat", str(names_run)]) == 2
    error = capsys.readouterr().err
    assert "microgpt generate" in error
    assert error.count("\n") == 1


def test_the_model_folder_holds_the_template(chat_run: Path, names_run: Path) -> None:
    folder = checkpoint.find(chat_run)
    assert (folder / "chat_template.jinja").read_text() == chat_template.TEMPLATE
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<bos>", "<end_turn>")
    tokenizer = checkpoint.read(chat_run).tokenizer
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == tokenizer.special["end_turn"]
    assert not (checkpoint.find(names_run) / "chat_template.jinja").exists()
