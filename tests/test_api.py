"""What Python programs use."""

from __future__ import annotations

from pathlib import Path

import pytest

import microgpt
from microgpt.inference.chat import ChatModel


def test_train_load_generate(given_names: Path, tmp_path: Path) -> None:
    config = microgpt.Config.of("names", data={"path": str(given_names)}, run={"steps": 30, "samples": 2})
    trained = microgpt.train(config, tmp_path / "run")
    assert (trained.step, len(trained.samples)) == (30, 2)
    model = microgpt.load(trained.path)
    again = ["".join(model.generate("em", seed=5, temperature=0.8, max_tokens=6)) for _ in range(2)]
    assert again[0] == again[1]
    assert len(again[0]) <= 6
    assert list(model.generate("", temperature=0.0, max_tokens=1))


def test_a_chat_model_generates_and_answers(chat_run: Path) -> None:
    model = microgpt.load(chat_run)
    assert isinstance(model, ChatModel)
    reply = model.answer([{"role": "user", "content": "hi"}], temperature=0.0)
    assert reply.read() == "hello there"
    assert (reply.tokens_dropped, reply.prompt_tokens, reply.completion_tokens) == (0, 6, len("hello there"))
    assert reply.finish_reason == "stop"
    text = model.generate("hi", temperature=0.0, max_tokens=3)
    assert "".join(text) == text.text
    assert (text.prompt_tokens, text.completion_tokens, text.finish_reason) == (3, 3, "length")


def test_dir_lists_what_there_is() -> None:
    assert {"Config", "load", "train", "__version__"} <= set(dir(microgpt))
    assert [name for name in dir(microgpt) if not name.startswith("_")] == ["Config", "load", "train"]
    assert all(hasattr(microgpt, name) for name in dir(microgpt))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        microgpt.nothing  # noqa: B018
