"""POST /v1/responses: stateless, text in and out, its events in order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.conftest import BYTES, NAMES
from tests.serve.openai.asking import ask, refused
from tests.serve.running import Server

PATH = "/v1/responses"
CHAT = "/v1/chat/completions"


def respond(server: Server, **fields: Any) -> dict[str, Any]:
    return ask(server, PATH, {"input": "how are you", **fields})


def text(response: dict[str, Any]) -> str:
    (item,) = response["output"]
    (part,) = item["content"]
    assert response["id"].startswith("resp_")
    assert item["id"].startswith("msg_")
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", response["status"])
    assert (part["type"], part["annotations"]) == ("output_text", [])
    found: str = part["text"]
    return found


def test_the_text_is_that_of_a_chat(server: Server) -> None:
    messages = [{"role": "system", "content": "be nice"}, {"role": "user", "content": "how are you"}]
    same = {"seed": 5, "temperature": 1.2, "top_p": 0.95}
    chat = ask(server, CHAT, {"messages": messages, "max_tokens": 9, **same})
    found = respond(server, instructions="be nice", max_output_tokens=9, **same)
    assert text(found) == chat["choices"][0]["message"]["content"]
    usage = found["usage"]
    assert [usage[key] for key in ("input_tokens", "output_tokens", "total_tokens")] == list(chat["usage"].values())
    assert (found["object"], found["store"], found["previous_response_id"]) == ("response", False, None)


def test_status_says_how_it_ended(server: Server) -> None:
    whole = respond(server, temperature=0)
    assert (whole["status"], whole["incomplete_details"]) == ("completed", None)
    cut = respond(server, temperature=0, max_output_tokens=2)
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert text(whole).startswith(text(cut))


def test_an_earlier_response_is_taken_as_it_came(server: Server) -> None:
    first = respond(server, seed=1)
    question = {"role": "user", "content": [{"type": "input_text", "text": "how are you"}]}
    more = {"type": "message", "role": "user", "content": "bye"}
    second = respond(server, input=[question, *first["output"], more], seed=1)
    messages = [
        {"role": "user", "content": "how are you"},
        {"role": "assistant", "content": text(first)},
        {"role": "user", "content": "bye"},
    ]
    assert text(second) == ask(server, CHAT, {"messages": messages, "seed": 1})["choices"][0]["message"]["content"]


@pytest.mark.parametrize("most", [None, 3])
def test_the_events_of_a_stream(server: Server, most: int | None) -> None:
    body = {"input": "how are you", "seed": 2, "max_output_tokens": most}
    whole = ask(server, PATH, body)
    blocks = server.post(PATH, {**body, "stream": True}).text.rstrip("\n").split("\n\n")
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    n = whole["usage"]["output_tokens"]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * n,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        whole["status"],
    ]
    assert "".join(event["delta"] for event in events if "delta" in event) == events[4 + n]["text"] == text(whole)
    assert events[0]["response"]["status"] == "in_progress"
    last = events[-1]["response"]
    assert (text(last), last["usage"], last["id"]) == (text(whole), whole["usage"], events[0]["response"]["id"])
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1


def test_json_of_a_schema(server: Server) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": {**schema, "additionalProperties": False}}}
    found = respond(server, model=BYTES, text=wanted, seed=1, temperature=2)
    assert isinstance(json.loads(text(found))["ok"], bool)
    assert found["text"]["format"]["schema"]["required"] == ["ok"]
    wanted["format"]["schema"]["not"] = {}
    assert refused(server, PATH, {"input": "hi", "model": BYTES, "text": wanted})["param"] == "text.format.schema"


def test_an_input_over_the_context(server: Server) -> None:
    error = refused(server, PATH, {"input": "a" * 100})
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": " "}, "input"),
        ({"input": [{"role": "user", "content": "  "}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"input": "é"}, "input"),
        ({"store": True}, "store"),
        ({"store": 0}, "store"),
        ({"previous_response_id": "resp-1"}, "previous_response_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"tools": []}, "tools"),
        ({"n": 2}, "n"),
        ({"model": NAMES}, "model"),
    ],
)
def test_a_wrong_field_is_refused_by_name(server: Server, fields: dict[str, Any], param: str) -> None:
    assert refused(server, PATH, {"input": "hi", **fields})["param"] == param
