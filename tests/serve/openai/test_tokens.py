"""GET /v1/models, and the routes of the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from microgpt.inference.language_model import LanguageModel
from tests.serve.conftest import BYTES, CHAT, NAMES
from tests.serve.openai.asking import ask, refused
from tests.serve.running import Server


def test_models(server: Server) -> None:
    found = server.get("/v1/models").json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == [CHAT, NAMES, BYTES]
    for model in found["data"]:
        assert sorted(model) == ["created", "id", "object", "owned_by"]
        assert server.get(f"/v1/models/{model['id']}").json() == model
    for name in ("gpt-4", "runs/gpt-4", "runs%2Fgpt-4"):  # names may have slashes
        missing = server.get(f"/v1/models/{name}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        assert name.replace("%2F", "/") in missing.json()["error"]["message"]


@pytest.mark.parametrize("name", ["content", "prompt"])
def test_there_and_back(server: Server, bytes_run: Path, name: str) -> None:
    tokenizer = LanguageModel.open(bytes_run).tokenizer
    text = "hello, <bos>é\n"
    found = ask(server, "/tokenize", {"model": BYTES, name: text})
    assert found == {"tokens": tokenizer.encode(text).tolist()}, "no BOS, and no special token from text"
    with_bos = ask(server, "/tokenize", {"model": BYTES, name: text, "add_special_tokens": True})["tokens"]
    assert with_bos == [tokenizer.bos, *found["tokens"]]
    for tokens in (found["tokens"], with_bos):
        assert ask(server, "/detokenize", {"model": BYTES, "tokens": tokens})["content"] == text
    assert ask(server, "/tokenize", {name: ""}) == {"tokens": []}
    assert ask(server, "/detokenize", {"tokens": []})["content"] == ""


def test_tokenizer_info(server: Server, chat_run: Path) -> None:
    found = server.get("/tokenizer_info").json()
    model = LanguageModel.open(chat_run)
    assert (found["eos_token"], found["eos_token_id"]) == ("<end_turn>", model.tokenizer.special["end_turn"])
    assert (found["bos_token"], found["bos_token_id"]) == ("<bos>", model.tokenizer.bos)
    assert (found["vocab_size"], found["model_max_length"]) == (model.tokenizer.vocab_size, 64)


@pytest.mark.parametrize("model", [None, NAMES, BYTES])
def test_bos_and_what_ends_a_text_are_found_by_their_names_alone(server: Server, model: str | None) -> None:
    """As lm-eval asks for them; under the other name, or within a text, they are text."""
    bos = ask(server, "/tokenize", {"model": model, "prompt": "a", "add_special_tokens": True})["tokens"][0]
    asked = {"model": model, "add_special_tokens": False}
    assert ask(server, "/tokenize", {"prompt": "<bos>", **asked})["tokens"] == [bos]
    if model != NAMES:  # chat models
        assert ask(server, "/tokenize", {"prompt": "<end_turn>", **asked})["tokens"] == [bos - 1]
    for fields in ({"content": "<bos>"}, {"prompt": "<bos>", "add_special_tokens": None}, {"prompt": "a<bos>"}):
        answer = server.post("/tokenize", {**asked, **fields})
        assert answer.status_code == 400 or bos not in answer.json()["tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": "a", "prompt": "a"}, "content"),
        ("/tokenize", {"content": "é"}, "content"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"content": "a", "with_pieces": True}, "with_pieces"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [99999]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
    ],
)
def test_a_wrong_field_is_refused_by_name(server: Server, path: str, body: dict[str, Any], param: str) -> None:
    assert refused(server, path, body)["param"] == param
