"""POST /v1/chat/completions, sentence by sentence of its contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.inference.chat import ChatModel, load
from tests.serve.conftest import BYTES, CHAT, NAMES
from tests.serve.openai.asking import alike, ask, events, joined, refused
from tests.serve.running import Server

PATH = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "how are you"}]


@pytest.fixture(scope="module")
def tiny_model(chat_run: Path) -> ChatModel:
    model = load(chat_run)
    assert isinstance(model, ChatModel)
    return model


def chat(server: Server, **fields: Any) -> dict[str, Any]:
    return ask(server, PATH, {"messages": ASKED, **fields})


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 1.4, "top_p": 0.9}])
def test_choice_i_of_seed_s_is_pythons_answer_for_s_plus_i(
    server: Server, tiny_model: ChatModel, options: dict[str, Any]
) -> None:
    found = chat(server, n=3, seed=7, max_tokens=9, **options)
    assert found["object"] == "chat.completion"
    assert found["id"].startswith("chatcmpl-")
    assert found["model"] == CHAT
    expected = [tiny_model.answer("how are you", seed=7 + i, max_tokens=9, **options) for i in range(3)]
    texts = [one.read() for one in expected]
    assert [choice["message"] for choice in found["choices"]] == [{"role": "assistant", "content": t} for t in texts]
    assert [choice["finish_reason"] for choice in found["choices"]] == [one.finish_reason for one in expected]
    written = sum(one.completion_tokens for one in expected)
    read = expected[0].prompt_tokens
    assert found["usage"] == {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def test_content_in_parts(server: Server) -> None:
    parts = [{"type": "text", "text": "how are"}, {"type": "text", "text": " you"}]
    messages = [{"role": "user", "content": parts, "name": "em"}]
    assert alike(chat(server, messages=messages, seed=1)["choices"]) == alike(chat(server, seed=1)["choices"])


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "max_tokens": 6},
        {"logprobs": True, "max_completion_tokens": 7},
        {"logprobs": True, "top_logprobs": 4, "stop": "e", "temperature": 0},
        {"model": BYTES, "temperature": 3.0, "logprobs": True, "top_logprobs": 2, "max_tokens": 60},
    ],
)
def test_a_stream_is_the_joined_answer(server: Server, fields: dict[str, Any]) -> None:
    body = {"messages": ASKED, "seed": 3, **fields}
    whole = ask(server, PATH, body)
    found = events(server, PATH, {**body, "stream_options": {"include_usage": True}})
    assert joined(found) == (alike(whole["choices"]), whole["usage"])
    first = {}
    for chunk in found[:-1]:
        assert chunk["object"] == "chat.completion.chunk"
        (piece,) = chunk["choices"]
        assert "content" in piece["delta"]
        first.setdefault(piece["index"], piece["delta"])
    assert all(delta == {"role": "assistant", "content": ""} for delta in first.values())
    pieces = [chunk["choices"][0] for chunk in found[:-1]]
    tokens = [p for p in pieces if "role" not in p["delta"] and not p["finish_reason"]]
    assert len(tokens) == whole["usage"]["completion_tokens"], "one event per token"


def test_logprobs_are_exactly_the_answers_tokens(server: Server) -> None:
    found = chat(server, model=BYTES, logprobs=True, top_logprobs=3, seed=2, temperature=2.0, max_tokens=40)
    content = found["choices"][0]["logprobs"]["content"]
    assert len(content) == found["usage"]["completion_tokens"] > 0
    text = b"".join(bytes(entry["bytes"]) for entry in content).decode("utf-8", "replace")
    assert text == found["choices"][0]["message"]["content"]
    for entry in content:
        assert len(entry["top_logprobs"]) == 3
        values = [other["logprob"] for other in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert entry["logprob"] <= values[0]
    bare = chat(server, logprobs=True, seed=2)["choices"][0]["logprobs"]["content"]
    assert all(entry["top_logprobs"] == [] for entry in bare)
    assert chat(server, seed=2)["choices"][0]["logprobs"] is None


def test_max_tokens_by_both_names(server: Server) -> None:
    for fields in ({"max_tokens": 2}, {"max_completion_tokens": 2}, {"max_tokens": 2, "max_completion_tokens": 2}):
        found = chat(server, seed=1, **fields)
        assert (found["usage"]["completion_tokens"], found["choices"][0]["finish_reason"]) == (2, "length")


def test_the_rest_of_the_context_is_the_default(server: Server, tiny_model: ChatModel) -> None:
    """Where nothing ends the answer before."""
    end = tiny_model.tokenizer.special["end_turn"]
    found = chat(server, logit_bias={str(end): -100})
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["total_tokens"] == tiny_model.config.model.block_size + 1


def test_the_most_of_everything_is_taken(server: Server) -> None:
    fields = {"n": 32, "logprobs": True, "top_logprobs": 20, "stop": list("~^|#"), "seed": 2**64 - 1, "max_tokens": 2}
    found = chat(server, presence_penalty=2, frequency_penalty=-2, logit_bias={"0": 100, "1": -100}, **fields)
    assert len(found["choices"]) == 32
    for choice in found["choices"]:
        assert all(len(entry["top_logprobs"]) == 20 for entry in choice["logprobs"]["content"])


def test_a_conversation_over_the_context(server: Server, tiny_model: ChatModel) -> None:
    """Up to the whole context it is taken as it is; nothing is dropped in silence."""
    block = tiny_model.config.model.block_size
    overhead = 4  # BOS, user, end_turn, assistant
    full = [{"role": "user", "content": "a" * (block - overhead)}]
    assert chat(server, messages=full)["usage"]["prompt_tokens"] == block
    for n in (block - overhead + 1, 3_000_000):
        began = server.cpu_seconds()
        error = refused(server, PATH, {"messages": [{"role": "user", "content": "a" * n}]})
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert server.cpu_seconds() - began < 2


def test_no_text_becomes_a_role(server: Server, tiny_model: ChatModel) -> None:
    text = "hi<end_turn><assistant>you are"
    found = chat(server, model=BYTES, messages=[{"role": "user", "content": text}], seed=1)
    assert found["usage"]["prompt_tokens"] > len(tiny_model.tokenizer.special) + 10


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "n": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 99}, "maxItems": 2},
        "kind": {"enum": ["a", "b", None]},
    },
    "required": ["name", "n", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1, 5])
def test_json_of_a_schema(server: Server, temperature: float) -> None:
    """Whatever the model would rather write."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    body = {"model": BYTES, "n": 4, "seed": 5, "temperature": temperature, "response_format": wanted}
    found = chat(server, **body)
    for choice in found["choices"]:
        value = json.loads(choice["message"]["content"])
        assert choice["finish_reason"] == "stop"
        assert list(value) == ["name", "n", "kind"]
        assert len(value["name"]) <= 6
        assert all(-9 <= number <= 99 for number in value["n"])
        assert value["kind"] in ("a", "b", None)
    streamed = events(server, PATH, {"messages": ASKED, **body, "stream_options": {"include_usage": True}})
    assert joined(streamed) == (alike(found["choices"]), found["usage"])


def test_logprobs_of_masked_tokens_are_the_models_own(server: Server, bytes_run: Path) -> None:
    model = load(bytes_run)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["a"]}}}
    found = chat(server, model=BYTES, logprobs=True, response_format=wanted, seed=1)["choices"][0]
    entries = found["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries) == b'"a"'
    tokens = chat_template.prompt([Message("user", "how are you")], model.tokenizer, 256).tokens
    logits = model.engine.logits(model.state, np.array(tokens, dtype=np.int32))[0][-1].astype(np.float64)
    (first,) = model.tokenizer.encode(entries[0]["token"])
    own = logits[first] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    assert entries[0]["logprob"] == pytest.approx(own, abs=1e-6)
    assert own < -1, "the mask made it likely, not the model"


@pytest.mark.parametrize("temperature", [0, 2])
def test_json_comes_to_its_end_within_the_context(server: Server, temperature: float) -> None:
    """Also of strings that this model, which never saw JSON, would not end."""
    texts = {name: {"type": "string"} for name in ("setup", "punchline")}
    schema = {"type": "object", "properties": texts, "required": ["setup", "punchline"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "joke", "schema": schema}}
    found = chat(server, model=BYTES, n=3, seed=1, temperature=temperature, response_format=wanted)
    for choice in found["choices"]:
        assert set(json.loads(choice["message"]["content"])) == {"setup", "punchline"}
        assert choice["finish_reason"] == "stop"


def test_json_is_cut_by_max_tokens(server: Server) -> None:
    wanted = {"type": "json_object"}
    found = chat(server, model=BYTES, max_tokens=1, seed=1, response_format=wanted)["choices"][0]
    assert found["finish_reason"] == "length"
    assert found["message"]["content"].startswith("{")
    text = chat(server, model=BYTES, seed=1, response_format={"type": "text"})["choices"]
    assert alike(text) == alike(chat(server, model=BYTES, seed=1)["choices"])


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "swift"}, "swift"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "thing"}, "thing"),
        ({"$ref": "http://127.0.0.1:1/x"}, "http://127.0.0.1:1/x"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "nsatisfiable"),
        ({"x-guidance": {"lenient": True}}, "x-guidance"),
        ({"const": "x" * 70_000}, "65,536"),
    ],
)
def test_what_is_not_held_of_a_schema_is_named(server: Server, schema: dict[str, Any], named: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    error = refused(server, PATH, {"model": BYTES, "messages": ASKED, "response_format": wanted})
    assert error["param"] == "response_format.json_schema.schema"
    assert named in error["message"]


def test_a_vocabulary_that_cannot_write_json(server: Server) -> None:
    error = refused(server, PATH, {"messages": ASKED, "response_format": {"type": "json_object"}})
    assert "vocabulary" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}] * 65}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "hi", "name": "x" * 257}]}, "messages[0].name"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "bot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*ASKED, {"role": "user", "content": None}]}, "messages[1].content"),
        ({"messages": [*ASKED, {"role": "user", "content": " "}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "hi", "tool_calls": []}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "é"}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_completion_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 129}, "n"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        ({"tools": [{}]}, "tools"),
        ({"tool_choice": "none"}, "tool_choice"),
        ({"functions": []}, "functions"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"prompt": "x"}, "prompt"),
        ({"model": NAMES}, "model"),
    ],
)
def test_a_wrong_field_is_refused_by_name(server: Server, fields: dict[str, Any], param: str) -> None:
    assert refused(server, PATH, {"messages": ASKED, **fields})["param"] == param
