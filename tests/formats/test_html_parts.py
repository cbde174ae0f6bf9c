"""The parts of the page in a real browser: chance, sampling, conversations, attention; and its one script."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.formats import export
from microgpt.formats.bundle import bundle
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling, probabilities
from microgpt.tokenizers import train
from tests.formats.conftest import MODERN, SERVICE, Build
from tests.formats.test_html import TEXTS, write

sync_api = pytest.importorskip("playwright.sync_api")


def test_chance_and_sampling_are_ours(build: Build, tmp_path: Path, visit: Any) -> None:
    """The numbers of a seed, the distributions after all filters, and so the text of a seed."""
    source = build(init_std=0.3)
    page = visit(export(source, "html", tmp_path / "page.html").path)
    for seed in (0, 1, 42, 2**32 - 1, 2**32, 2**53 - 1):
        ours = Random(seed)
        theirs = page.evaluate(
            "seed => { const t = new (modules['formats/templates/twister.js'].Twister)(seed);"
            " return Array.from({length: 700}, () => t.random()); }",
            seed,
        )
        assert theirs == [ours.random() for _ in range(700)]
    z, seen = np.random.default_rng(3).normal(0, 3, 40), [1, 5, 5, 39]
    for options in (
        {"temperature": 0}, {"temperature": 0.7}, {"temperature": 1e-320},
        {"temperature": 0, "repetition_penalty": 1.8},
        {"temperature": 1.5, "top_k": 7}, {"temperature": 1, "top_p": 0.4}, {"temperature": 1, "min_p": 0.1},
        {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
    ):  # fmt: skip
        found = page.evaluate(
            "([z, options, seen]) =>"
            " [...modules['formats/templates/sampling.js'].probabilities(new Float64Array(z), options, seen)]",
            [z.tolist(), options, seen],
        )
        np.testing.assert_allclose(found, probabilities(z, Sampling(**options), seen), rtol=1e-12, atol=1e-300)
    same = LanguageModel.open(export(source, "safetensors", tmp_path / "same", storage="float16").path, dtype="float64")
    ids, _ = same.encode("ab")
    expected = same.stream(ids, rng=Random(7), sampling=same.sampling(temperature=0.8, top_k=20)).read()
    assert write(page, "ab", 0.8, Seed="7", **{"Top-k": "20"}) == expected


@pytest.mark.parametrize("block", [16, 30, 64])
def test_a_conversation_that_is_too_long_is_cut_as_ours(build: Build, tmp_path: Path, visit: Any, block: int) -> None:
    tokenizer = train("char", TEXTS, roles=True)
    page = visit(export(build(tokenizer=tokenizer, block_size=block), "html", tmp_path / "page.html").path)
    talks = [["two cats sat on it" * 3], ["two", "cats", "sat"], ["two cats sat", "spaces and lines", "two"]]
    for texts in talks:
        for roles in (["user", "assistant"] * 2, ["system", "user", "assistant"]):
            messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
            ours = chat_template.prompt(messages, tokenizer, block)
            turns = [chat_template.turn(message, tokenizer).tokens for message in messages]
            found = page.evaluate(
                """([turns, special, block]) => {
                    const { chatPrompt, promptLength } = modules['formats/templates/conversation.js'];
                    return chatPrompt(turns, special, promptLength(block));
                }""",
                [turns, dict(tokenizer.special) | {"bos": tokenizer.bos}, block],
            )
            assert (found["tokens"], found["dropped"]) == (ours.tokens, ours.dropped)


def test_attention_of_a_text(build: Build, tmp_path: Path, visit: Any) -> None:
    """Every layer and head on one's own text, as the engine computes it; also of a text that has grown."""
    source = build(**MODERN, init_std=0.4)
    page = visit(export(source, "html", tmp_path / "page.html").path)
    same = LanguageModel.open(export(source, "safetensors", tmp_path / "same", storage="float16").path, engine="manual")
    page.get_by_role("link", name="Look inside").click()
    sync_api.expect(page.locator(".heads button")).to_have_count(4)
    for text in ("ab", "abxyz"):
        page.get_by_label("A text to look at").fill(text)
        sync_api.expect(page.locator(".strip button")).to_have_count(len(text) + 1)
        body = json.dumps({"text": text, "message": False, "changes": [], "swaps": []})
        asked = f"{SERVICE}.answer('/api/inside/attention', {{ body: {json.dumps(body)} }})"
        packed = page.evaluate(f"{asked}.then(r => r.arrayBuffer()).then(b => [...new Uint16Array(b)])")
        found = same.engine.inspect(same.state, np.array(same.encode(text)[0], np.int32))  # type: ignore[misc]
        below = np.tri(len(text) + 1, dtype=bool)
        expected = np.concatenate([head[below] for layer in range(2) for head in found[f"layer{layer}.attention"]])
        np.testing.assert_allclose(np.array(packed) / 65535, expected, atol=1e-4)
    page.locator(".heads button").nth(3).click()
    sync_api.expect(page.get_by_role("heading", name="Layer 1, head 1")).to_be_visible()


def test_modules_become_one_script() -> None:
    texts = {
        "a/main.js": "import { one, two as second } from '../b.js';\nexport const sum = one() + second;\n",
        "b.js": "// import('./x.js') in a comment\nexport function one() {\n  return 1;\n}\nexport const two = 2;\n",
        "odd.js": "export default 1;\n",
        "circle.js": "import { x } from './round.js';\n",
        "round.js": "import { y } from './circle.js';\n",
    }
    script = bundle("a/main.js", texts.__getitem__)
    assert "const { one, two: second } = modules['b.js'];" in script
    assert script.index("modules['b.js'] = ") < script.index("modules['a/main.js'] = ")
    with pytest.raises(ValueError, match=r"odd\.js: export default 1"):
        bundle("odd.js", texts.__getitem__)
    with pytest.raises(ValueError, match=r"circle\.js imports round\.js imports circle\.js"):
        bundle("circle.js", texts.__getitem__)
