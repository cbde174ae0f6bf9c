"""POST /api/inside/…: what is told of a model is what its own engine computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.inference.inspection import Inspector, probabilities, stages
from microgpt.inference.interventions import Change
from microgpt.inference.language_model import LanguageModel
from tests.serve.running import Server

TEXT = {"model": "names", "text": "emma"}
SUBJECTS = ("text", "attention", "lens", "neurons", "neuron", "embeddings", "weights", "weight", "intervene")


@pytest.fixture(scope="module")
def names(runs_folder: Path) -> Inspector:
    return Inspector(LanguageModel.open(runs_folder / "names"))


@pytest.fixture(scope="module")
def tokens(names: Inspector) -> list[int]:
    return names.source.encode("emma")[0]


@pytest.fixture(scope="module")
def ask(page_server: Server) -> Any:
    def found(subject: str, **body: Any) -> Any:
        answer = page_server.post(f"/api/inside/{subject}", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return found


def test_a_text_and_its_residual_stream(ask: Any, names: Inspector, tokens: list[int]) -> None:
    found = ask("text", **TEXT)
    assert (found["tokens"], found["pieces"]) == (tokens, ["<bos>", "e", "m", "m", "a"])
    assert found["stages"] == stages(names.model)
    activations = names.activations(tokens)
    expected = [np.linalg.norm(activations[stage], axis=1) for stage in found["stages"]]
    np.testing.assert_allclose(found["norms"], expected, atol=1e-4)
    p = probabilities(activations["logits"])
    assert found["bits"][0] is None
    np.testing.assert_allclose(found["bits"][1:], -np.log2(p[np.arange(4), tokens[1:]]), atol=1e-4)


def test_attention_is_packed_as_told(page_server: Server, names: Inspector, tokens: list[int]) -> None:
    answer = page_server.post("/api/inside/attention", TEXT)
    assert answer.headers["content-type"] == "application/octet-stream"
    packed = np.frombuffer(answer.content, "<u2").reshape(1, 4, 15) / 65535
    expected = names.activations(tokens)["layer0.attention"]
    for head in range(4):
        rows = [packed[0, head, t * (t + 1) // 2 :][: t + 1] for t in range(5)]
        for t, row in enumerate(rows):
            np.testing.assert_allclose(row, expected[head, t, : t + 1], atol=8e-6)
            assert row.sum() == pytest.approx(1, abs=1e-4)


def test_the_lens_ends_with_the_models_own_prediction(ask: Any, names: Inspector, tokens: list[int]) -> None:
    found = ask("lens", **TEXT, top=3)
    assert found["first"] == 0
    p = probabilities(names.activations(tokens)["logits"])
    order = np.argsort(-p, axis=-1, kind="stable")[:, :3]
    assert found["tokens"][-1] == order.tolist()
    np.testing.assert_allclose(found["probabilities"][-1], np.take_along_axis(p, order, -1), atol=1e-4)
    assert np.array(found["probabilities"]).shape == (3, 5, 3)
    named = {str(token) for stage in found["tokens"] for row in stage for token in row}
    assert set(found["pieces"]) == named


def test_neurons_and_the_texts_that_make_them_fire(ask: Any, names: Inspector) -> None:
    layer = ask("neurons", model="names", layer=0)
    assert layer["source"] == "data"
    assert len(layer["peaks"]) == len(layer["shares"]) == 64
    neuron = int(np.argmax(layer["peaks"]))
    found = ask("neuron", model="names", layer=0, neuron=neuron, top=4)
    first = found["examples"][0]
    assert first["values"][first["peak"]] == layer["peaks"][neuron]
    pushed = names.weights["lm_head"] @ names.weights["layer0.mlp_fc2"][:, neuron]
    assert found["raises"][0]["piece"] == names.source.tokenizer.token(int(pushed.argmax()))
    assert found["lowers"][0]["logit"] == pytest.approx(pushed.min(), abs=1e-4)


def test_a_run_on_conversations_fires_on_them(ask: Any) -> None:
    assert ask("neurons", model="talk", layer=0)["source"] == "data"
    peak = ask("neuron", model="talk", layer=0, neuron=0)["examples"][0]
    assert {"<user>", "<assistant>", "<end_turn>"} & set(peak["pieces"])


def test_embeddings_weights_and_their_pictures(ask: Any, names: Inspector) -> None:
    points = ask("embeddings", model="names")
    assert points["labels"][-1] == "<bos>"
    assert len(points["x"]) == len(points["y"]) == names.model.vocab
    assert ask("embeddings", model="names", matrix="wpe")["labels"] == [str(i) for i in range(16)]
    matrices = ask("weights", model="names")["matrices"]
    assert [each["name"] for each in matrices] == list(names.weights)
    name = "layer0.mlp_fc1"
    picture = ask("weight", model="names", name=name)
    shown = np.array(picture["cells"]) / 127 * picture["scale"]
    assert (picture["row_step"], picture["column_step"]) == (1, 1)
    np.testing.assert_allclose(shown, names.weights[name], atol=picture["scale"] / 250)


def test_consequences_of_a_change(ask: Any, names: Inspector, tokens: list[int]) -> None:
    off = {"part": "head", "layer": 0, "index": 2}
    found = ask("intervene", **TEXT, changes=[off], top=5)
    before = probabilities(names.activations(tokens)["logits"])
    after = probabilities(names.activations(tokens, [Change("head", 0, 2)])["logits"])
    for each in found["candidates"]:
        assert each["before"] == pytest.approx(before[4, each["token"]], abs=1e-6)
        assert each["after"] == pytest.approx(after[4, each["token"]], abs=1e-6)
    shown = [each["before"] for each in found["candidates"]]
    assert shown == sorted(shown, reverse=True)
    np.testing.assert_allclose(found["moved"], np.abs(after - before).sum(1) / 2, atol=1e-4)
    assert found["divergence"] == pytest.approx((before[4] * np.log(before[4] / after[4])).sum(), rel=1e-6)


def test_a_swapped_token_is_another_text(ask: Any, names: Inspector) -> None:
    v = names.source.encode("v")[0][1]
    found = ask("intervene", **TEXT, swaps=[{"position": 2, "token": v}])
    other = probabilities(names.activations(names.source.encode("evma")[0])["logits"])
    assert found["moved"][:2] == [0, 0]
    for each in found["candidates"]:
        assert each["after"] == pytest.approx(other[4, each["token"]], abs=1e-6)
    assert ask("text", **TEXT, swaps=[{"position": 2, "token": v}])["pieces"] == ["<bos>", "e", "v", "m", "a"]


def test_no_change_changes_nothing(ask: Any) -> None:
    found = ask("intervene", **TEXT)
    assert found["divergence"] == 0
    assert not any(found["moved"])
    assert all(each["before"] == each["after"] for each in found["candidates"])


def test_a_long_text_keeps_its_end(ask: Any) -> None:
    found = ask("text", model="names", text="emma" * 1000 + "lily")
    assert found["dropped"] == 4004 - 15
    assert "".join(found["pieces"]).endswith("emmalily")
    assert len(found["pieces"]) == 16
    assert ask("text", model="names")["pieces"] == ["<bos>"]


def test_a_message_is_seen_with_its_roles(ask: Any) -> None:
    found = ask("text", model="talk", text="hi", message=True)
    assert found["pieces"] == ["<bos>", "<user>", "h", "i", "<end_turn>", "<assistant>"]
    assert ask("text", **TEXT, message=True)["pieces"][1] == "e", "names knows no roles"


@pytest.mark.parametrize(
    ("subject", "body", "status", "told"),
    [
        ("text", {"model": "nobody"}, 404, "nobody"),
        ("text", {"text": "emmé"}, 400, "'é'"),
        ("text", {"text": "e" * (2**16 + 1)}, 422, "text"),
        ("text", {"texts": "e"}, 422, "texts"),
        (
            "attention",
            {"swaps": [{"position": 1, "token": 0}]},
            400,
            "swaps: position 1 does not exist; expected 0 to 0",
        ),
        ("lens", {"swaps": [{"position": 0, "token": 99}]}, 400, "swaps: token 99"),
        ("lens", {"top": 21}, 422, "top"),
        ("intervene", {"position": 1}, 400, "position 1 does not exist"),
        ("intervene", {"changes": [{"part": "head", "layer": 0, "index": 4}]}, 400, "head 4 does not exist"),
        ("intervene", {"changes": [{"part": "layer", "layer": 1}]}, 400, "layer 1 does not exist"),
        ("intervene", {"changes": [{"part": "tail", "layer": 0}]}, 422, "part"),
        ("intervene", {"changes": [{"part": "layer", "layer": 0, "scale": 101}]}, 422, "scale"),
        ("intervene", {"changes": [{"part": "layer", "layer": 0}] * 65}, 422, "changes"),
        ("neurons", {"layer": 1}, 400, "layer 1 does not exist"),
        ("neuron", {"layer": 0, "neuron": 64}, 400, "neuron 64 does not exist"),
        ("embeddings", {"matrix": "layer0.attn_wq"}, 422, "matrix"),
        ("weight", {"name": "wtf"}, 400, "this model has no matrix 'wtf'"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(
    page_server: Server, subject: str, body: dict[str, Any], status: int, told: str
) -> None:
    answer = page_server.post(f"/api/inside/{subject}", {"model": "names", **body})
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert told in answer.json()["error"]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_model_can_be_looked_into(page_server: Server, subject: str) -> None:
    body = {"neurons": {"layer": 0}, "neuron": {"layer": 0, "neuron": 3}, "weight": {"name": "wte"}}
    shown = body.get(subject, {} if subject in ("embeddings", "weights") else {"text": "hello"})
    for model in ("talk", "bytes"):
        assert page_server.post(f"/api/inside/{subject}", {"model": model, **shown}).status_code == 200
