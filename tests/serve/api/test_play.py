"""POST /api/play and /api/score: the text of a seed is everywhere the same, and the numbers are the model's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.inference.chat import load
from microgpt.inference.sampling import probabilities
from tests.serve.running import Server

FILTERS = {"temperature": 1.3, "top_k": 6, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2}


def events(server: Server, **body: Any) -> list[dict[str, Any]]:
    answer = server.post("/api/play", body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *found, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in found]


def drawn(found: list[dict[str, Any]]) -> list[int]:
    return [event["token"]["id"] for event in found if "token" in event]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, FILTERS], ids=["own", "greedy", "filters"])
def test_a_seed_gives_the_text_that_it_gives_elsewhere(page_server: Server, sampling: dict[str, Any]) -> None:
    for model, prompt in (("names", "em"), ("bytes", "hi é"), ("names", "")):
        asked = {"model": model, "seed": 7, "max_tokens": 9, **sampling}
        there = page_server.post("/v1/completions", {"prompt": prompt, **asked}).json()["choices"][0]
        found = events(page_server, text=prompt, **asked)
        end = found[-1]["end"]
        assert (end["text"], end["reason"], end["seed"]) == (there["text"], there["finish_reason"], 7)
        assert "".join(token["piece"] for token in found[0]["prompt"]) == prompt


def test_a_chat_answers_as_elsewhere(page_server: Server) -> None:
    for model in ("talk", "bytes"):
        asked = {"model": model, "seed": 3, **FILTERS}
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello there"},
            {"role": "user", "content": "bye"},
        ]
        there = page_server.post("/v1/chat/completions", {"messages": messages, **asked}).json()["choices"][0]
        found = events(page_server, turns=messages, **asked)
        assert found[-1]["end"]["text"] == there["message"]["content"]
        # Turns as ids, an answer begun elsewhere, and the rest of its random numbers give the same.
        ids = page_server.post("/tokenize", {"model": model, "content": "hello there"}).json()["tokens"]
        messages[1] = {"role": "assistant", "tokens": ids}
        answer = drawn(found)
        rest = events(page_server, turns=messages, answer=answer[:2], draws=2, echo=False, **asked)
        assert drawn(rest) == answer[2:]


def test_a_text_goes_on_as_if_it_had_not_been_stopped(page_server: Server) -> None:
    asked = {"model": "bytes", "seed": 5, "temperature": 1.5}
    whole = events(page_server, text="how", **asked, max_tokens=20)
    ids = [token["id"] for token in whole[0]["prompt"]]
    first = events(page_server, text="how", **asked, max_tokens=8)
    rest = events(page_server, tokens=ids, answer=drawn(first), draws=8, echo=False, max_tokens=12, **asked)
    assert drawn(first) + drawn(rest) == drawn(whole)
    assert "prompt" not in rest[0]
    other = events(page_server, tokens=ids, answer=drawn(first), echo=False, max_tokens=12, **asked)
    assert drawn(rest) != drawn(other)


def test_candidates_before_and_after_the_filters(page_server: Server, runs_folder: Path) -> None:
    model = load(runs_folder / "names")
    found = events(page_server, model="names", text="em", seed=1, candidates=4, max_tokens=6, **FILTERS)
    told = [*found[0]["prompt"], *(event["token"] for event in found if "token" in event)]
    if ending := found[-1]["end"]["ending"]:
        assert ending["id"] == model.tokenizer.bos
        told.append(ending)
    ids = [model.tokenizer.bos, *(token["id"] for token in told)]
    logits, _ = model.engine.logits(model.state, np.array(ids[:-1], dtype=np.int32))
    for at, (token, row) in enumerate(zip(told, logits, strict=True), start=1):
        z = row.astype(np.float64)
        before = z - z.max() - np.log(np.exp(z - z.max()).sum())
        after = probabilities(row, model.sampling(**FILTERS), ids[:at])
        assert token["logprob"] == pytest.approx(before[token["id"]], abs=1e-4)
        candidates = token["candidates"]
        assert {each["id"] for each in candidates} >= {token["id"], *np.argsort(-before)[:4].tolist()}
        assert [each["logprob"] for each in candidates] == sorted((e["logprob"] for e in candidates), reverse=True)
        for each in candidates:
            assert each["logprob"] == pytest.approx(before[each["id"]], abs=1e-4)
            assert each["share"] == pytest.approx(after[each["id"]], abs=1e-4)
        assert len(candidates) <= 9
        if at > 2:  # drawn: it has passed the filters
            assert next(each["share"] for each in candidates if each["id"] == token["id"]) > 0


def test_a_text_is_scored(page_server: Server) -> None:
    scored = page_server.post("/api/score", {"model": "names", "text": "emma"}).json()
    asked = {"model": "names", "prompt": "emma", "echo": True, "logprobs": 1, "max_tokens": 0}
    there = page_server.post("/v1/completions", asked).json()["choices"][0]["logprobs"]
    assert [token["piece"] for token in scored["prompt"]] == there["tokens"]
    assert [token["logprob"] for token in scored["prompt"]][1:] == pytest.approx(there["token_logprobs"][1:])
    assert math.exp(scored["prompt"][0]["logprob"]) <= 1
    long = page_server.post("/api/score", {"model": "names", "text": "emma" * 9}).json()
    assert long["dropped"] + len(long["prompt"]) == 36


def test_stops_and_pieces(page_server: Server) -> None:
    asked = {"model": "talk", "turns": [{"role": "user", "content": "hi"}], "temperature": 0.0}
    whole = events(page_server, **asked)[-1]["end"]["text"]
    end = events(page_server, **asked, stop=[whole[4:6]])[-1]["end"]
    assert (end["text"], end["reason"], end["ending"]) == (whole[: whole.index(whole[4:6])], "stop", None)


def test_the_end_of_the_context_is_told(page_server: Server) -> None:
    found = events(page_server, model="names", text="emma", max_tokens=2, temperature=3.0, seed=4)
    assert found[-1]["end"]["full"] is False
    ids = [1] * 15
    found = events(page_server, model="names", tokens=ids, temperature=3.0, seed=4, answer=[])
    assert len(drawn(found)) <= 1
    if drawn(found):
        assert found[-1]["end"] | {"reason": "length", "full": True} == found[-1]["end"]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 400, "text: give one of text, tokens and turns"),
        ({"text": "a", "tokens": [1]}, 400, "give one of"),
        ({"text": "a", "model": "nobody"}, 404, "the model 'nobody' does not exist"),
        ({"text": "é"}, 400, "'é' at position 1 is not in this tokenizer's vocabulary"),
        ({"tokens": [999]}, 400, "999 is no token"),
        ({"tokens": [1] * 17}, 400, "18 tokens, but this model's context holds 16"),
        ({"turns": [{"role": "user", "content": "a"}]}, 400, "'names' was not trained on conversations"),
        ({"model": "talk", "turns": [{"role": "user"}]}, 400, "turns[0]: give either content or tokens"),
        ({"model": "talk", "turns": [{"role": "user", "content": " "}]}, 400, "turns[0].content: must not be blank"),
        ({"model": "talk", "turns": []}, 422, "turns"),
        ({"text": "a", "temperature": -1}, 422, "temperature"),
        ({"text": "a", "draws": 1 << 40}, 422, "draws"),
        ({"text": "a", "colour": 1}, 422, "colour"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    page_server: Server, body: dict[str, Any], status: int, sentence: str
) -> None:
    answer = page_server.post("/api/play", body)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]


def test_what_there_is_to_play_with(page_server: Server) -> None:
    names = page_server.get("/api/play/names").json()
    assert (names["chat"], names["block_size"], names["end"]) == (False, 16, names["special"]["bos"])
    talk = page_server.get("/api/play/talk").json()
    assert (talk["chat"], talk["roles"], talk["end"]) == (
        True,
        ["system", "user", "assistant"],
        talk["special"]["end_turn"],
    )
    assert page_server.get("/api/play/nobody").status_code == 404
