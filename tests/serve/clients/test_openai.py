"""The official client of OpenAI's service, against ours."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from microgpt.serve.openai.chats import ChatCompletionBody
from microgpt.serve.openai.completions import CompletionBody
from microgpt.serve.openai.responses import ResponseBody
from tests.serve.conftest import BYTES, CHAT, NAMES
from tests.serve.running import Server

ASKED = [{"role": "user", "content": "how are you"}]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [CHAT, NAMES, BYTES]
    assert client.models.retrieve(NAMES).owned_by == "microgpt"


def test_completions(client: OpenAI) -> None:
    fields = {"model": NAMES, "prompt": ["e", "av"], "seed": 3, "max_tokens": 5, "logprobs": 2, "n": 2}
    whole = client.completions.create(**fields)
    texts = {choice.index: choice.text for choice in whole.choices}
    streamed = dict.fromkeys(texts, "")
    for chunk in client.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts
    assert chunk.usage == whole.usage


def test_chats(client: OpenAI) -> None:
    fields = {"model": CHAT, "messages": ASKED, "seed": 5, "logprobs": True, "top_logprobs": 3}
    (whole,) = client.chat.completions.create(**fields).choices
    pieces, scores = [], []
    for chunk in client.chat.completions.create(**fields, stream=True):
        (choice,) = chunk.choices
        pieces.append(choice.delta.content)
        scores += choice.logprobs.content if choice.logprobs else []
    assert chunk.choices[0].finish_reason == whole.finish_reason
    assert "".join(pieces) == whole.message.content
    assert scores == whole.logprobs.content


def test_the_clients_own_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model=CHAT, messages=ASKED, seed=5) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert (
        final.choices[0].message.content
        == client.chat.completions.create(model=CHAT, messages=ASKED, seed=5).choices[0].message.content
    )


def test_parsed_answers(client: OpenAI) -> None:
    class Joke(BaseModel):
        setup: str
        rating: int

    found = client.chat.completions.parse(model=BYTES, messages=ASKED, response_format=Joke, seed=1)
    assert isinstance(found.choices[0].message.parsed, Joke)
    response = client.responses.parse(model=BYTES, input="hi", text_format=Joke)
    assert isinstance(response.output_parsed, Joke)


def test_responses(client: OpenAI) -> None:
    whole = client.responses.create(model=CHAT, input="how are you", temperature=0)
    with client.responses.stream(model=CHAT, input="how are you", temperature=0) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text == whole.output_text
    assert (final.status, final.usage) == ("completed", whole.usage)
    again = client.responses.create(model=CHAT, input=[*ASKED, *whole.output, {"role": "user", "content": "bye"}])
    assert again.output_text


@pytest.mark.parametrize("route", ["completions", "chat/completions", "responses"])
def test_every_parameter_that_the_client_knows_is_taken_or_refused_by_name(client: OpenAI, route: str) -> None:
    """None is ignored: what the route's shape lacks is a 400 with the parameter's name."""
    create = {
        "completions": client.completions,
        "chat/completions": client.chat.completions,
        "responses": client.responses,
    }
    body = {"completions": CompletionBody, "chat/completions": ChatCompletionBody, "responses": ResponseBody}[route]
    known = inspect.signature(create[route].create).parameters.keys() - {"self"}
    unsupported = {name for name in known if not name.startswith(("extra_", "timeout"))} - body.model_fields.keys()
    assert len(unsupported) >= 2
    required = {"completions": {"prompt": "e"}, "chat/completions": {"messages": ASKED}, "responses": {"input": "hi"}}
    for name in sorted(unsupported):
        with pytest.raises(BadRequestError) as refused:
            client.post(f"/{route}", body={**required[route], name: 1}, cast_to=object)
        assert (refused.value.param, refused.value.code) == (name, "unsupported_parameter")


def test_errors(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=ASKED)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(BadRequestError) as unsupported:
        client.chat.completions.create(
            model=CHAT, messages=ASKED, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert unsupported.value.param == "tools"
