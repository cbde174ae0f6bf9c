"""Several runs as one model of a service: texts and scores are those of `microgpt generate RUN RUN`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from microgpt.data.conversations import Message
from microgpt.engines.ensemble import Ensemble
from microgpt.inference.chat import ChatModel
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.slots import open_slots
from microgpt.model import n_params
from microgpt.training.train import train
from tests.chats import tiny
from tests.serve.openai.asking import ask, events, refused
from tests.serve.running import Server, serving


@pytest.fixture(scope="module")
def members(chat_run: Path, talks: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two chat models of one tokenizer, of other sizes and contexts."""
    out = tmp_path_factory.mktemp("runs") / "other,smaller"
    model = {"n_embd": 8, "n_head": 2, "n_layer": 1, "block_size": 48}
    train(tiny(talks, model=model, run={"steps": 20, "samples": 0, "seed": 7}), out)
    return [chat_run, out]


@pytest.fixture(scope="module")
def server(members: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose default is both as one; a folder's name may have a comma where it stands alone."""
    both, other = f"both={members[0]},{members[1].parent / 'linked'}", f"other={members[1]}"
    (members[1].parent / "linked").symlink_to(members[1])
    with serving("--model", both, "--model", other, log=tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


def test_its_texts_are_those_of_the_terminal(server: Server, members: list[Path]) -> None:
    model, _ = ChatModel.open_all(members)
    assert [each["id"] for each in server.get("/v1/models").json()["data"]] == ["both", "other"]
    body = {"prompt": "h", "n": 3, "seed": 5, "temperature": 0.9, "max_tokens": 12}
    expected = [model.generate("h", seed=5 + i, temperature=0.9, max_tokens=12).read() for i in range(3)]
    assert [choice["text"] for choice in ask(server, "/v1/completions", body)["choices"]] == expected
    streamed = events(server, "/v1/completions", {**body, "n": 1})
    assert "".join(each["choices"][0]["text"] for each in streamed if each["choices"]) == expected[0]
    chat = {"messages": [{"role": "user", "content": "hi"}], "seed": 3, "temperature": 0.7}
    said = ask(server, "/v1/chat/completions", chat)["choices"][0]["message"]["content"]
    assert said == model.answer([Message("user", "hi")], seed=3, temperature=0.7).read()


def test_its_facts_are_those_of_all_members(server: Server, members: list[Path]) -> None:
    found, other = (server.get(f"/api/play/{name}").json() for name in ("both", "other"))
    models = [LanguageModel.open(path).config.model for path in members]
    assert found["parameters"] == sum(map(n_params, models)) > other["parameters"] == n_params(models[1])
    assert (found["block_size"], found["step"]) == (48, None)
    assert found["tokenizer"] == other["tokenizer"]


def test_its_scores_are_the_logarithms_of_the_mean(server: Server, members: list[Path]) -> None:
    singles = [LanguageModel.open(path) for path in members]
    tokens = [singles[0].tokenizer.bos, *singles[0].tokenizer.encode("hi").tolist()]
    mean = np.zeros((len(tokens), singles[0].tokenizer.vocab_size))
    for one in singles:
        shares = np.exp(one.engine.logits(one.state, np.array(tokens, np.int32))[0].astype(np.float64))
        mean += shares / shares.sum(axis=1, keepdims=True) / 2
    body = {"prompt": "hi", "echo": True, "logprobs": 1, "max_tokens": 0}
    found = ask(server, "/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
    expected = np.log(mean[np.arange(1, len(tokens) - 1), tokens[2:]])
    assert found[0] is None
    np.testing.assert_allclose(found[1:], expected, rtol=1e-5)


def test_a_question_about_one_run_is_refused(server: Server) -> None:
    assert (
        "is an ensemble of 2 runs"
        in refused(server, "/v1/completions", {"model": "both@last", "prompt": ""})["message"]
    )
    assert [run["name"] for run in server.get("/api/runs").json()["runs"]] == ["other"], "the page shows single runs"
    for path, body in (
        ("/api/inside/attention", {"model": "both", "text": "hi"}),
        ("/api/step", {"model": "both", "text": "hi"}),
        ("/api/metrics", {"run": "both"}),
    ):
        answer = server.post(path, body)
        assert answer.status_code == 400, (path, answer.text)
        assert "is an ensemble" in answer.text, path


def test_slots_of_members_whose_prompts_are_done_at_other_times(members: list[Path]) -> None:
    """Each slot's logits are those of the ensemble's plain path, also where one member has no slots of its own."""
    opened = [LanguageModel.open(members[0]), LanguageModel.open(members[1], engine="manual")]
    engine, state = Ensemble([each.engine for each in opened]), [each.state for each in opened]
    bos = opened[0].tokenizer.bos
    prompts = [[bos, *([5, 6, 7] * 12)], [bos, 5]]
    slots = open_slots(engine, state, 2)
    taken = [slots.admit(prompt) for prompt in prompts]
    with pytest.raises(ValueError, match="slots are in use"):
        slots.admit([5])
    rows: dict[int, np.ndarray] = {}
    while len(rows) < 2:
        for i, slot in enumerate(taken):
            if i not in rows and (logits := slots.prefill(slot, 4)) is not None:
                rows[i] = logits
    stepped = slots.step(taken[::-1], [6, 7])[::-1]
    for i, prompt in enumerate(prompts):
        whole, cache = engine.logits(state, np.array(prompt, np.int32))
        np.testing.assert_array_equal(rows[i], whole[-1])
        after, _ = engine.logits(state, np.array([[7, 6][i]], np.int32), cache)
        np.testing.assert_array_equal(stepped[i], after[-1])
        slots.release(taken[i])
    assert slots.admit(prompts[1]) in taken
