"""POST /v1/completions, sentence by sentence of its contract."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.inference.language_model import LanguageModel
from microgpt.serve.limits import most
from tests.serve.conftest import BYTES, NAMES
from tests.serve.openai.asking import alike, ask, events, joined, refused
from tests.serve.running import Server

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def names(names_run: Path) -> LanguageModel:
    return LanguageModel.open(names_run)


def complete(server: Server, prompt: Any = "e", **fields: Any) -> dict[str, Any]:
    return ask(server, PATH, {"model": NAMES, "prompt": prompt, **fields})


def texts(answer: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return [choice["text"] for choice in answer["choices"]]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    z = logits.astype(np.float64) - logits.max()
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"temperature": 1.3, "top_k": 5}, {"min_p": 0.05, "repetition_penalty": 1.4}]
)
def test_choice_i_of_seed_s_is_what_the_terminal_gives_for_s_plus_i(
    server: Server, names: LanguageModel, options: dict[str, Any]
) -> None:
    found = complete(server, ["e", "av"], n=3, seed=2**63 - 4, max_tokens=6, **options)
    prompts = ["e"] * 3 + ["av"] * 3  # the choices of a prompt stand together
    expected = [
        names.generate(prompt, seed=2**63 - 4 + i, max_tokens=6, **options).read() for i, prompt in enumerate(prompts)
    ]
    assert texts(found) == expected


def test_seeds_wrap(server: Server) -> None:
    last = complete(server, n=2, seed=2**64 - 1, max_tokens=5, temperature=1)
    assert texts(last)[1] == texts(complete(server, seed=0, max_tokens=5, temperature=1))[0]


def test_without_a_seed_replies_differ(server: Server) -> None:
    assert len({texts(complete(server, max_tokens=9, temperature=2.0))[0] for _ in range(5)}) > 1


def test_the_forms_of_a_prompt(server: Server, names: LanguageModel) -> None:
    same = {"seed": 5, "max_tokens": 4}
    ids = names.tokenizer.encode("av").tolist()
    one = texts(complete(server, "av", **same))
    assert texts(complete(server, ids, **same)) == one, "BOS is put before ids, too"
    assert texts(complete(server, [ids], **same)) == one == texts(complete(server, ["av"], **same))
    assert texts(complete(server, "", **same)) == [names.generate("", **same).read()]
    assert complete(server, "", **same)["usage"]["prompt_tokens"] == 1, "an empty prompt begins with BOS"


def test_usage_counts_bos_and_each_prompt_once(server: Server, names: LanguageModel) -> None:
    found = complete(server, ["e", "ava"], n=3, seed=1, max_tokens=30)["usage"]
    expected = [names.generate(p, seed=1 + i, max_tokens=30) for i, p in enumerate(["e"] * 3 + ["ava"] * 3)]
    written = sum([one.completion_tokens for one in expected if one.read() is not None])
    assert found == {"prompt_tokens": 2 + 4, "completion_tokens": written, "total_tokens": 6 + written}


def test_logprobs_are_the_models_own(server: Server, names: LanguageModel) -> None:
    """Whatever the temperature, filters, bias and penalties are."""
    fields = {"temperature": 1.7, "top_k": 9, "logit_bias": {"0": 5}, "presence_penalty": 1, "frequency_penalty": -1}
    fields |= {"top_p": 0.99, "min_p": 0.001, "repetition_penalty": 1.2}
    answer = complete(server, "e", logprobs=3, seed=4, max_tokens=5, **fields)
    assert answer["id"].startswith("cmpl-")
    assert answer["system_fingerprint"].startswith("b"), "as llama.cpp's, for clients that look"
    (choice,) = answer["choices"]
    tokenizer = names.tokenizer
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == list(range(len(choice["text"])))
    row = [tokenizer.bos, *tokenizer.encode("e" + choice["text"]).tolist()]
    logits, _ = names.engine.logits(names.state, np.array(row, dtype=np.int32))
    own = log_softmax(logits)[1:-1]
    drawn = row[2:]
    np.testing.assert_allclose(found["token_logprobs"], [own[i, token] for i, token in enumerate(drawn)], atol=1e-6)
    for i, top in enumerate(found["top_logprobs"]):
        best = np.argsort(-own[i], kind="stable")[:3].tolist()
        assert set(top) == {tokenizer.token(token) for token in [*best, drawn[i]]}


def test_echo_scores_the_prompt(server: Server, names: LanguageModel) -> None:
    """As lm-eval asks: the prompt's tokens without BOS, the first without a value, and exactly one more."""
    tokenizer = names.tokenizer
    ids = [tokenizer.encode(text).tolist() for text in ("ava", "emma", "olivia")]
    found = complete(server, ids, echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234)
    for row, choice in zip(ids, found["choices"], strict=True):
        scores = choice["logprobs"]
        assert {len(values) for values in scores.values()} == {len(row) + 1}
        assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
        logits, _ = names.engine.logits(names.state, np.array([tokenizer.bos, *row], dtype=np.int32))
        own = log_softmax(logits)
        expected = [own[i, token] for i, token in enumerate(row)][1:]
        np.testing.assert_allclose(scores["token_logprobs"][1:-1], expected, atol=1e-6)
        assert choice["text"].startswith(tokenizer.decode(row))
    alone = complete(server, "emma", echo=True, logprobs=0, max_tokens=0)["choices"][0]
    assert (alone["text"], alone["finish_reason"]) == ("emma", "length")
    assert alone["logprobs"]["tokens"] == ["e", "m", "m", "a"]


def test_ids_that_begin_with_bos_get_no_second_one_and_list_it(server: Server, names: LanguageModel) -> None:
    """So lm-eval, whose empty context is BOS, gets the log probability of a text's first token."""
    bos, ids = names.tokenizer.bos, names.tokenizer.encode("ava").tolist()
    found = complete(server, [bos, *ids], echo=True, logprobs=1, max_tokens=1, temperature=0)
    scores = found["choices"][0]["logprobs"]
    assert scores["tokens"][:-1] == ["<bos>", "a", "v", "a"]
    assert scores["text_offset"][:-1] == [0, 0, 1, 2]
    assert found["usage"]["prompt_tokens"] == 4
    own = log_softmax(names.engine.logits(names.state, np.array([bos, *ids], dtype=np.int32))[0])
    assert scores["token_logprobs"][0] is None
    np.testing.assert_allclose(scores["token_logprobs"][1:-1], own[np.arange(3), ids], atol=1e-6)
    same = {"seed": 5, "max_tokens": 4}
    assert texts(complete(server, [bos, *ids], **same)) == texts(complete(server, ids, **same))
    alone = complete(server, [bos], echo=True, logprobs=0, max_tokens=0)["choices"][0]
    assert (alone["text"], alone["logprobs"]["token_logprobs"]) == ("", [None])


def test_the_one_more_token_is_there_when_the_text_ends_at_once(server: Server, names: LanguageModel) -> None:
    bos = names.tokenizer.bos
    fields = {"echo": True, "logprobs": 1, "max_tokens": 1, "logit_bias": {str(bos): 100}}
    found = complete(server, "em", **fields)
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("em", "stop")
    assert choice["logprobs"]["tokens"] == ["e", "m", "<bos>"]
    row = np.array([bos, *names.tokenizer.encode("em")], dtype=np.int32)
    own = log_softmax(names.engine.logits(names.state, row)[0])[-1, bos]
    assert choice["logprobs"]["token_logprobs"][-1] == pytest.approx(own, abs=1e-6)
    assert found["usage"]["completion_tokens"] == 0, "the token that ends a text is not counted"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["e", "av"], "n": 2, "max_tokens": 7, "logprobs": 2},
        {"prompt": "e", "max_tokens": 9, "stop": ["a", "li"]},
        {"prompt": ["em", "o"], "echo": True, "logprobs": 0, "max_tokens": 3},
        {"prompt": "em", "echo": True, "max_tokens": 0},
        {"prompt": "hi", "model": BYTES, "temperature": 3.0, "max_tokens": 60, "logprobs": 1},  # half characters
    ],
)
def test_a_stream_is_the_joined_answer(server: Server, fields: dict[str, Any]) -> None:
    body = {"model": NAMES, "seed": 11, "temperature": 1.0, **fields}
    whole = ask(server, PATH, body)
    found = events(server, PATH, {**body, "stream_options": {"include_usage": True}})
    assert joined(found) == (alike(whole["choices"]), whole["usage"])
    pieces = [chunk["choices"][0] for chunk in found[:-1]]
    ends = [piece for piece in pieces if piece["finish_reason"]]
    echoed = len(whole["choices"]) if body.get("echo") else 0
    assert len(pieces) - len(ends) - echoed == whole["usage"]["completion_tokens"], "one event per token"
    for text in [piece["text"] for piece in pieces]:
        text.encode()  # no half character


def test_without_stream_options_the_usage_comes_with_the_last_end(server: Server) -> None:
    """Some clients read it there, and do not ask for it."""
    body = {"model": NAMES, "prompt": "e", "n": 2, "seed": 4, "max_tokens": 5}
    *others, last = events(server, PATH, body)
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert last["choices"][0]["finish_reason"]
    assert last["usage"] == ask(server, PATH, body)["usage"]


def test_stops(server: Server) -> None:
    free = texts(complete(server, "e", temperature=0, max_tokens=9))[0]
    assert len(free) > 3
    (choice,) = complete(server, "e", temperature=0, max_tokens=9, stop=["~", free[1:3]])["choices"]
    assert (choice["text"], choice["finish_reason"]) == (free[: free.index(free[1:3])], "stop")


def test_bias_and_penalties(server: Server, names: LanguageModel) -> None:
    token = int(names.tokenizer.encode("v")[0])
    biased = {"temperature": 0, "logit_bias": {str(token): 100}, "max_tokens": 6}
    assert texts(complete(server, "e", **biased)) == ["vvvvvv"]
    never = {"temperature": 0, "logit_bias": {str(token): -100}, "max_tokens": 9}
    assert "v" not in texts(complete(server, "a", **never))[0]
    weak = {**biased, "logit_bias": {str(token): 3}, "frequency_penalty": 2, "presence_penalty": 2}
    assert texts(complete(server, "e", **weak))[0].count("v") < 6


def test_the_context_bounds_a_prompt(server: Server, names: LanguageModel) -> None:
    block = names.config.model.block_size
    exact = complete(server, "e" * (block - 1), max_tokens=5)
    assert exact["usage"]["prompt_tokens"] == block
    assert exact["usage"]["completion_tokens"] <= 1
    for prompt in ("e" * block, "e" * 3_000_000, ["e", "e" * block]):
        began = server.cpu_seconds()
        error = refused(server, PATH, {"model": NAMES, "prompt": prompt})
        assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
        assert server.cpu_seconds() - began < 2


def test_the_rest_of_the_context_is_the_default(server: Server, names: LanguageModel) -> None:
    """Where nothing ends a text before: without BOS it fills the context, and the last token takes no place in it."""
    found = complete(server, "e", logit_bias={str(names.tokenizer.bos): -100})
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["total_tokens"] == names.config.model.block_size + 1


def test_the_most_of_everything_is_taken(server: Server) -> None:
    fields = {"n": 32, "stop": list("~^|#"), "logprobs": 20, "presence_penalty": -2, "frequency_penalty": 2}
    found = complete(server, ["e"] * 64, max_tokens=1, temperature=0, logit_bias={"0": 100, "1": -100}, **fields)
    assert len(found["choices"]) == 64 * 32
    assert {choice["text"] for choice in found["choices"]} == {"a"}
    assert found["usage"]["prompt_tokens"] == 64 * 2


def test_top_logprobs_are_finite(server: Server) -> None:
    scores = complete(server, "e", logprobs=20, max_tokens=2, seed=1)["choices"][0]["logprobs"]
    assert all(math.isfinite(value) for top in scores["top_logprobs"] for value in top.values())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ["e"] * 65}, "prompt"),
        ({"prompt": ["e", 1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1.0]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [9999]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "e~"}, "prompt"),
        ({"stop": ""}, "stop"),
        ({"stop": list("abcde")}, "stop"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"n": 2.0}, "n"),
        ({"prompt": ["e"] * 64, "n": 128}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": 1}, "echo"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": []}, "logit_bias"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"stream": "yes"}, "stream"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 1}, "best_of"),
        ({"tools": []}, "tools"),
        ({"what ever": 1}, "what ever"),
        ({"stop": "x" * 4097}, "stop"),
        ({"model": "x" * 257}, "model"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
)
def test_a_wrong_field_is_refused_by_name(server: Server, fields: dict[str, Any], param: str) -> None:
    assert refused(server, PATH, {"model": NAMES, "prompt": "e", **fields})["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        (PATH, {"prompt": "e", "logit_bias": dict.fromkeys(map(str, range(4097)), 1)}, "logit_biases"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}] * 1025}, "messages"),
    ],
)
def test_counts_are_bounded_before_any_work(server: Server, path: str, body: dict[str, Any], limit: str) -> None:
    """By the table of limits, not by the model's vocabulary or context."""
    assert f"at most {most(limit)} items" in refused(server, path, body)["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"prompt": "e"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/responses", {"input": "hi"}),
        ("/tokenize", {"content": "e"}),
        ("/detokenize", {"tokens": []}),
    ],
)
def test_an_unknown_model(server: Server, path: str, body: dict[str, Any]) -> None:
    error = refused(server, path, {"model": "gpt-4", **body}, 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert ask(server, path, body), "without a name it is the default model"


@pytest.mark.parametrize("body", [[], "x", 5, False])
def test_a_body_that_is_no_object(server: Server, body: Any) -> None:
    assert refused(server, PATH, body)["param"] is None


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ('{"prompt": "e", "n": 1, "n": 2}', "n"),
        ('{"prompt": "e", "seed": 18446744073709551616}', "seed"),
        ('{"prompt": "e", "seed": ' + "9" * 5000 + "}", "seed"),
        ('{"prompt": "e", "\\ud800": 1}', "\\ud800"),
        ('{"prompt": "e", "\\ud800": 1, "\\ud800": 1}', "\\ud800"),
        ('{"prompt": "e\\ud800"}', "prompt"),
    ],
)
def test_what_strict_json_refuses_is_named(server: Server, text: str, param: str) -> None:
    answer = server.client.post(PATH, content=text, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
