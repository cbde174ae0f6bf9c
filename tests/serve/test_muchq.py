"""muchq's routes, byte for byte, and the law of seeds: a reply is the terminal's."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from microgpt.cli import main
from microgpt.inference.chat import ChatModel, load
from microgpt.inference.language_model import LanguageModel
from tests.serve.running import Server


def test_health(server: Server) -> None:
    answer = server.get("/health")
    assert (answer.status_code, answer.text) == (200, "Ok")


def test_samples_are_the_terminals(names_server: Server, names_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = names_server.post("/microgpt/v1/generate", {"num_samples": 3, "temperature": 0.9, "seed": 7})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["samples"]
    capsys.readouterr()
    for i, text in enumerate(answer.json()["samples"]):
        main(["generate", str(names_run), "--seed", str(7 + i), "-n", "1", "--temperature", "0.9"])
        assert capsys.readouterr().out == text + "\n"


def test_a_sample_is_the_same_beside_63_others(names_server: Server, names_run: Path) -> None:
    model = LanguageModel.open(names_run)

    def sample(seed: int) -> str:
        answer = names_server.post("/microgpt/v1/generate", {"seed": seed, "temperature": 1.5})
        text: str = answer.json()["samples"][0]
        return text

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(sample, range(64)))
    assert found == [model.generate(seed=seed, temperature=1.5).read() for seed in range(64)]


def test_seeds_wrap_at_2_to_the_64(names_server: Server, names_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = 2**64 - 1
    samples = names_server.post("/microgpt/v1/generate", {"num_samples": 2, "temperature": 0.9, "seed": last}).json()
    capsys.readouterr()
    for seed, text in zip((last, 0), samples["samples"], strict=True):
        assert main(["generate", str(names_run), "--seed", str(seed), "-n", "1", "--temperature", "0.9"]) == 0
        assert capsys.readouterr().out == text + "\n"


def test_a_chat_is_the_terminals(server: Server, chat_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = server.post("/microgpt/v1/chat", {"messages": [{"role": "user", "content": "how are you"}], "seed": 3})
    capsys.readouterr()
    main(["chat", str(chat_run), "-p", "how are you", "--seed", "3", "--temperature", "0.5", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert list(answer.json().items()) == [(key, told[key]) for key in ("role", "content", "tokens_dropped")]


def test_a_message_longer_than_the_room_keeps_its_end(
    server: Server, chat_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what is dropped is counted as `chat --json` counts it."""
    text = "hi " * 500 + "how are you"
    long = server.post("/microgpt/v1/chat", {"messages": [{"role": "user", "content": text}], "temperature": 0})
    capsys.readouterr()
    main(["chat", str(chat_run), "-p", text, "--temperature", "0", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert list(long.json().items()) == [(key, told[key]) for key in ("role", "content", "tokens_dropped")]
    kept = len(text) - told["tokens_dropped"]
    assert 0 < kept < 64  # the context
    other_beginning = {"role": "user", "content": "bye" + text[3:]}
    assert server.post("/microgpt/v1/chat", {"messages": [other_beginning], "temperature": 0}).json() == long.json()


def test_messages_that_do_not_fit_are_dropped_from_the_front(server: Server, chat_run: Path) -> None:
    model = load(chat_run)
    assert isinstance(model, ChatModel)
    turns = [("user", "how are you"), ("assistant", "fine thanks"), ("user", "hi"), ("assistant", "hello there")]
    messages = [{"role": role, "content": content} for role, content in [*turns * 3, ("user", "who are you")]]
    found = server.post("/microgpt/v1/chat", {"messages": messages, "temperature": 1.5, "seed": 9}).json()
    reply = model.answer(messages, temperature=1.5, seed=9)
    assert (found["content"], found["tokens_dropped"]) == (reply.read(), reply.tokens_dropped)
    assert reply.tokens_dropped > 50


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("generate", {"temperature": -0.5}, 400, "temperature must be >= 0, got -0.5"),
        ("generate", {"temperature": -1e-7}, 400, "temperature must be >= 0, got -0.0000001"),
        ("generate", {"temperature": -0.123456789}, 400, "temperature must be >= 0, got -0.123456789"),
        ("generate", {"temperature": -2}, 400, "temperature must be >= 0, got -2"),
        ("generate", {"seed": 2**64}, 422, "seed: Input should be less than or equal to 18446744073709551615"),
        ("generate", {"num_samples": 0}, 400, "num_samples must be >= 1"),
        ("generate", {"max_tokens": 0}, 400, "max_tokens must be >= 1 when specified"),
        ("chat", {"messages": []}, 400, "messages must not be empty"),
        ("chat", {"messages": [{"role": "user", "content": "hi"}, {"role": "bot", "content": "x"}]}, 400,
         'messages[1]: unknown role "bot"'),
        ("chat", {"messages": [{"role": "user", "content": " "}]}, 400, "messages[0]: content must not be empty"),
    ],
)  # fmt: skip
def test_its_words(server: Server, path: str, body: dict[str, object], status: int, error: str) -> None:
    answer = server.post(f"/microgpt/v1/{path}", body)
    assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_a_model_without_roles_does_not_chat(names_server: Server) -> None:
    answer = names_server.post("/microgpt/v1/chat", {"messages": [{"role": "user", "content": "em"}]})
    assert (answer.status_code, answer.json()) == (400, {"error": "model was not trained with chat tokens"})


def test_50_samples_at_most_and_unknown_fields_change_nothing(names_server: Server) -> None:
    body = {"num_samples": 2**64 - 1, "seed": 2**64 - 1, "temperature": 9, "stream": True, "x": {"y": []}}
    samples = names_server.post("/microgpt/v1/generate", body).json()["samples"]
    assert len(samples) == 50
    again = names_server.post("/microgpt/v1/generate", {"num_samples": 49, "seed": 0, "temperature": 9})
    assert samples[1:] == again.json()["samples"]  # the seed wraps at 2^64
    assert len(set(samples)) > 25
    nothing = names_server.post("/microgpt/v1/generate", {"max_tokens": None, "seed": 2**64 - 1})
    assert nothing.status_code == 200


@pytest.mark.parametrize(
    ("path", "text", "error"),
    [
        ("generate", '{"seed": 1, "seed": 1}', "seed: it occurs twice; keep one"),
        ("generate", '{"max_tokens": null, "max_tokens": null}', "max_tokens: it occurs twice; keep one"),
        ("generate", '{"seed": -' + "9" * 5000 + "}", "seed: Input should be greater than or equal to 0"),
        ("chat", '{"messages": [], "messages": []}', "messages: it occurs twice; keep one"),
        ("chat", '{"messages": [{"role": "user", "content": "hi", "content": "hi"}]}',
         "messages.0.content: it occurs twice; keep one"),
    ],
)  # fmt: skip
def test_a_known_field_is_refused_by_name(server: Server, path: str, text: str, error: str) -> None:
    answer = server.client.post(f"/microgpt/v1/{path}", content=text, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (422, {"error": error})


def test_unknown_fields_are_ignored_whatever_they_hold(server: Server) -> None:
    """Also twice, or an integer beyond 64 bits; but half a surrogate pair makes no JSON."""
    unknown = '"x": 1, "x": [2], "y": 99999999999999999999, "z": [{"a": 1, "a": ' + "9" * 5000 + "}]"
    message = '{"role": "user", "content": "hi", ' + unknown + "}"
    for path, known in (("generate", '"seed": 1'), ("chat", '"messages": [' + message + "]")):
        for fields, status in ((known, 200), (f"{known}, {unknown}", 200), (known + ', "x": "\\ud800", "x": 1', 400)):
            content, headers = "{" + fields + "}", {"content-type": "application/json"}
            answer = server.client.post(f"/microgpt/v1/{path}", content=content, headers=headers)
            assert answer.status_code == status, answer.text


def test_the_defaults(server: Server) -> None:
    """Without max_tokens, or with null, a text goes on as far as the context."""
    asked = {"messages": [{"role": "user", "content": "how are you"}]}
    for path, known in (("generate", {"num_samples": 1}), ("chat", {})):
        body = asked if path == "chat" else {}
        answer = server.post(f"/microgpt/v1/{path}", body)
        assert answer.status_code == 200, answer.text
        for most in ({}, {"max_tokens": None}, {"max_tokens": 2**64 - 1}):
            given = {**body, **known, "temperature": 0.5, "seed": 42, **most}
            assert server.post(f"/microgpt/v1/{path}", given).content == answer.content
        other = {**body, "temperature": 5}
        assert (
            server.post(f"/microgpt/v1/{path}", other).content
            != server.post(f"/microgpt/v1/{path}", {**other, "seed": 43}).content
        )


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["/health"], None),
        (["-X", "POST", "/generate", '{"num_samples": 5, "temperature": 0.5, "max_tokens": 100}'], ["samples"]),
        (["-X", "POST", "/chat", '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}'],
         ["role", "content", "tokens_dropped"]),
    ],
)  # fmt: skip
def test_curl_as_its_readme_has_it(server: Server, words: list[str], keys: list[str] | None) -> None:
    """By the name localhost, with -X POST; its 100 tokens and 50 are more than this context holds."""
    url = f"http://localhost:{server.port}"
    if keys:
        *options, path, body = words
        line = [*options, f"{url}/microgpt/v1{path}", "-H", "Content-Type: application/json", "-d", body]
    else:
        line = [url + words[0]]
    told = subprocess.run(["curl", "-sS", *line], capture_output=True, text=True, timeout=60, check=True).stdout
    assert told == "Ok" if keys is None else list(json.loads(told)) == keys
