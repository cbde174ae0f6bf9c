"""Requests to /v1 in few words, and the one shape that a joined answer and a stream have in common."""

from __future__ import annotations

import json
from typing import Any

from tests.serve.running import Server

Body = dict[str, Any]


def ask(server: Server, path: str, body: Body) -> Body:
    """An answer."""
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


def refused(server: Server, path: str, body: Body, status: int = 400) -> Body:
    """The error of a request that is refused, which has four fields."""
    answer = server.post(path, body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error: Body = answer.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    return error


def events(server: Server, path: str, body: Body) -> list[Body]:
    """The events of a stream that ends with [DONE]."""
    answer = server.post(path, {**body, "stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *found, last, rest = answer.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in found]


def joined(found: list[Body]) -> tuple[list[Body], Body]:
    """The choices that the events of a stream make together, and its usage."""
    *chunks, usage = found
    assert usage["choices"] == []
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in found}) == 1
    choices: dict[int, Body] = {}
    for chunk in chunks:
        assert chunk["usage"] is None
        (piece,) = chunk["choices"]
        choice = choices.setdefault(piece["index"], {"text": "", "logprobs": None, "finish_reason": None})
        assert choice["finish_reason"] is None, "a piece after the last one"
        choice["text"] += piece["delta"]["content"] if "delta" in piece else piece["text"]
        choice["finish_reason"] = piece["finish_reason"]
        if piece["logprobs"]:
            choice["logprobs"] = choice["logprobs"] or {key: [] for key in piece["logprobs"]}
            for key, values in piece["logprobs"].items():
                choice["logprobs"][key] += values
    return [choices[i] for i in sorted(choices)], usage["usage"]


def alike(choices: list[Body]) -> list[Body]:
    """The choices of a joined answer, in the same shape."""
    return [
        {
            "text": choice["message"]["content"] if "message" in choice else choice["text"],
            "logprobs": choice["logprobs"],
            "finish_reason": choice["finish_reason"],
        }
        for choice in choices
    ]
