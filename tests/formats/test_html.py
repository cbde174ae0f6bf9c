"""The page in a real browser, with the network cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.errors import UsageError
from microgpt.formats import export
from microgpt.formats.bundle import bundle
from microgpt.inference.chat import ChatModel
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling, probabilities
from microgpt.tokenizers import KINDS, train
from tests.formats.conftest import CLASSIC, MODERN, NANOCHAT, Build, greedy, logits
from tests.serve.page.conftest import axe, fits
from tests.serve.page.playing import ask, generate, shown, wait

sync_api = pytest.importorskip("playwright.sync_api")

TEXTS = ["The cat (née Zoë) sat: it's 12345 degrees — “Oh!”", "  two  spaces and lines 🙂 don't"] * 3
SERVICE = "modules['formats/templates/main.js'].service"  # of the page


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Open a file as a page; whatever it says on the console or asks of the network fails the test."""
    noise: list[str] = []
    contexts = []

    def go(path: Path, **options: Any) -> Any:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on(
            "request",
            lambda request: noise.append(request.url) if request.url.partition("#")[0] != path.as_uri() else None,
        )
        page.goto(path.as_uri())
        page.locator("main[class]").wait_for()
        return page

    yield go
    for context in contexts:
        context.close()
    assert noise == []


def write(page: Any, prompt: str, temperature: float = 0, **settings: str) -> str:
    """The text that a page writes at full speed."""
    page.get_by_label("Full speed").check()
    return generate(page, prompt, Temperature=str(temperature), **settings)


def send(page: Any, message: str, **settings: str) -> str:
    """The answer of a chat model's page, at temperature 0."""
    page.get_by_label("Full speed").check()
    for label, value in {"Temperature": "0", **settings}.items():
        page.locator(f'.controls input[aria-label^="{label}:"]').fill(value)
    ask(page, message)
    turn = page.locator(".turn.assistant").last
    return "".join(turn.locator(".drawn:not(.ending, .cut, .partial)").all_text_contents())


@pytest.mark.parametrize(
    "options",
    [
        CLASSIC,
        {**CLASSIC, "activation": "gelu", "norm_embedding": False, "tie_embeddings": True},
        MODERN,
        {**MODERN, "rope_pairs": "interleaved", "rope_base": 300.0},
        {**NANOCHAT, "softcap": 5.0, "tie_embeddings": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
@pytest.mark.parametrize("stored", ["float16", "int8"])
def test_it_computes_our_logits_and_writes_our_text(
    build: Build, tmp_path: Path, visit: Any, options: dict[str, Any], stored: str
) -> None:
    source = build(**options, init_std=0.2)
    page = visit(export(source, "html", tmp_path / "page.html", storage=stored).path)
    same = export(source, "safetensors", tmp_path / "same", storage=stored).path
    ids = [26, *range(15)]
    theirs = page.evaluate(f"ids => ids.map((id, at) => [...{SERVICE}.model.logits(id, at)])", ids)
    assert np.abs(np.array(theirs) - logits(same, ids)).max() < 1e-5
    for prompt in ("", "ham", "abcdefghijklmnopqrstuvwxyz"):
        assert write(page, prompt) == greedy(same, prompt)


@pytest.mark.parametrize("roles", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tokenizer(build: Build, tmp_path: Path, visit: Any, kind: str, roles: bool) -> None:
    tokenizer = train(kind, TEXTS, roles=roles, **({"merges": 40} if kind.startswith("bpe") else {}))
    source = build(tokenizer=tokenizer, block_size=64, init_std=0.2)
    page = visit(export(source, "html", tmp_path / "page.html").path)
    texts = [*TEXTS[:2], "(née Zoë)  two: don't — “Oh!” 🙂", "spaces", ""]
    texts += ["unseen 日本\u0085 \t\r\n words'll  "] if kind == "bpe" else []
    for text in texts:
        assert page.evaluate(f"text => {SERVICE}.tokenizer.encode(text)", text) == tokenizer.encode(text).tolist()
    same = export(source, "safetensors", tmp_path / "same", storage="float16").path
    spelled = page.evaluate(
        f"ids => {{ const d = {SERVICE}.tokenizer.decoder(); return ids.map(d).join(''); }}",
        [*range(min(30, tokenizer.vocab_size))],
    )
    assert spelled == tokenizer.stream().feed(range(min(30, tokenizer.vocab_size)))
    if roles:
        answer = ChatModel.open(same, engine="manual", dtype="float64").answer("two", temperature=0).read()
        assert send(page, "two").strip() == answer.strip()
        return
    for prompt in ("", "two"):
        assert write(page, prompt).strip() == greedy(same, prompt).strip()


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


def test_a_person_at_the_keyboard(build: Build, tmp_path: Path, visit: Any) -> None:
    """Write, move along the tokens, take another candidate, go on from there, and walk back in the tree."""
    page = visit(export(build(init_std=0.1, block_size=24), "html", tmp_path / "page.html").path)
    expect = sync_api.expect
    page.get_by_label("Full speed").check()
    page.locator('.controls input[aria-label^="Temperature:"]').fill("0")
    page.get_by_label("Begin a text").fill("ab")
    page.get_by_label("Begin a text").press("Control+Enter")
    whole = wait(page)
    drawn = page.locator(".t.drawn")
    drawn.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(drawn.nth(1)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    candidates = page.locator(".candidates .list button")
    expect(candidates.nth(0)).to_be_focused()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    word = candidates.nth(3).locator(".word").text_content()
    page.keyboard.press("Enter")
    other = wait(page)
    assert other[0] == word != whole[0]
    branches = page.get_by_role("treeitem", name=re.compile("^Text"))
    expect(branches).to_have_count(2)
    branches.nth(1).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert shown(page) == whole
    # A reload keeps the texts, their branches and the one that was looked at; candidates are computed again.
    page.reload()
    expect(branches).to_have_count(2)
    assert shown(page) == whole
    drawn.nth(0).focus()
    expect(candidates).to_have_count(10)


def test_the_newest_tokens_candidates_are_shown_until_another_is_looked_at(
    build: Build, tmp_path: Path, visit: Any
) -> None:
    page = visit(export(build(init_std=0.1, block_size=24), "html", tmp_path / "page.html").path)
    expect = sync_api.expect
    write(page, "ab")
    expect(page.locator(".t").last).to_have_attribute("aria-current", "true")
    page.locator(".t.given").nth(1).click()  # a token of the prompt
    expect(page.locator(".candidates .head")).to_have_text(re.compile("^b "))
    second = page.evaluate(
        f"(() => {{ const m = new {SERVICE}.model.constructor({SERVICE}.model.options, {SERVICE}.model.w);"
        " m.logits(26, 0); return [...m.logits(0, 1)]; })()"
    )
    share = np.exp(np.array(second) - max(second))
    told = page.locator(".candidates .list [aria-current]").get_attribute("aria-label")
    assert told.startswith(f"b, {100 * share[1] / share.sum():.{2 if share[1] / share.sum() < 0.1 else 1}f} %")


def test_the_temperature_moves_the_bars(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(init_std=0.15), "html", tmp_path / "page.html").path)
    write(page, "a")
    page.locator(".t.drawn").nth(0).focus()
    bar, highest = page.locator(".candidates .bar-of.after").first, []
    for temperature in ("0", "0.8", "1.3", "2"):
        before = bar.text_content()
        page.locator('.controls input[aria-label^="Temperature:"]').fill(temperature)
        if temperature != "0":
            sync_api.expect(bar).not_to_have_text(before)
        highest.append(float(bar.text_content().split()[0]))
    assert highest[0] == 100
    assert highest == sorted(highest, reverse=True)
    assert highest[-1] < highest[1]


def test_text_appears_at_a_readable_pace_or_at_full_speed(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(init_std=0.02, block_size=16), "html", tmp_path / "page.html").path)
    seed = lasting(16)
    timed = """async () => {
        const begun = performance.now();
        document.querySelector('button.first').click();
        const told = () => document.querySelector('.status').textContent;
        while (!/seed \\d+: (?!being)/.test(told())) await new Promise(requestAnimationFrame);
        return performance.now() - begun;
    }"""
    page.locator('.controls input[aria-label^="Seed:"]').fill(str(seed))
    page.locator('.controls input[aria-label^="Temperature:"]').fill("2")
    milliseconds = page.evaluate(timed)
    assert page.locator(".t.drawn").count() == 16
    assert milliseconds >= 15 * 60
    page.get_by_label("Full speed").check()
    page.get_by_label("Begin a text").fill("a")
    page.get_by_label("Begin a text").fill("")
    assert page.evaluate(timed) < milliseconds


def lasting(n: int) -> int:
    """A seed whose first numbers draw no end from a nearly uniform distribution, in which it is the last token."""
    return next(seed for seed in count() if max(map(Random.random, [Random(seed)] * n)) < 0.93)


def test_a_chat_model_chats(build: Build, tmp_path: Path, visit: Any) -> None:
    """Two messages: the second prompt holds the first exchange, as the terminal's does."""
    tokenizer = train("char", TEXTS, roles=True)
    source = build(tokenizer=tokenizer, block_size=96, init_std=0.2)
    page = visit(export(source, "html", tmp_path / "page.html").path)
    model = ChatModel.open(export(source, "safetensors", tmp_path / "same", storage="float16").path, engine="manual")
    expect = sync_api.expect
    talk: list[dict[str, str]] = []
    for message in ("two cats", "sat"):
        talk.append({"role": "user", "content": message})
        answer = send(page, message, Tokens="6")
        assert answer == model.answer(talk, temperature=0, max_tokens=6).read()
        assert page.get_by_label("Message", exact=True).input_value() == ""
        talk.append({"role": "assistant", "content": answer})
        prompt = chat_template.prompt([Message(**part) for part in talk[:-1]], tokenizer, 96).tokens
        assert page.evaluate(f"{SERVICE}.reader.tokens")[: len(prompt)] == prompt
    assert page.locator(".turn h2").all_text_contents() == ["You", "Answer"] * 2
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".t")).to_have_count(0)
    assert send(page, "two cats", Tokens="6") == talk[1]["content"]


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


def test_an_unknown_character_is_told(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(), "html", tmp_path / "page.html").path)
    page.get_by_label("Begin a text").fill("né")
    page.get_by_label("Begin a text").press("Control+Enter")
    sync_api.expect(page.get_by_role("alert")).to_have_text("This model does not know “é”.")
    sync_api.expect(page.get_by_label("Begin a text")).to_be_focused()


def test_stop(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(init_std=0.02, block_size=4096, n_layer=4), "html", tmp_path / "page.html").path)
    page.locator('.controls input[aria-label^="Temperature:"]').fill("2")
    page.locator('.controls input[aria-label^="Seed:"]').fill(str(lasting(150)))
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator(".t").nth(5).wait_for()
    page.keyboard.press("Escape")
    sync_api.expect(page.locator(".status")).to_have_text(re.compile("stopped$"))
    written = page.locator(".t").count()
    page.wait_for_timeout(100)
    assert 5 < page.locator(".t").count() == written < 150
    assert len(set(page.locator(".t").all_text_contents())) > 2


def test_it_fits_and_can_be_read(build: Build, tmp_path: Path, visit: Any) -> None:
    path = export(build("a-name-that-is-quite-long" * 3), "html", tmp_path / "page.html").path
    page = visit(path, reduced_motion="reduce")
    write(page, "abc")
    for link in ("Play", "Look inside"):
        page.get_by_role("link", name=link).click()
        page.locator(".t, .strip button").first.wait_for()
        for width, scheme in ((320, "dark"), (320, "light"), (1200, "light"), (1200, "dark")):
            page.set_viewport_size({"width": width, "height": 700})
            page.emulate_media(color_scheme=scheme)
            fits(page)
            axe(page)


def test_a_name_cannot_become_markup(build: Build, tmp_path: Path, visit: Any) -> None:
    from microgpt.formats import ExportJob
    from microgpt.formats.html import write as write_page
    from microgpt.runs import checkpoint

    tokenizer = train("bpe-vidya", ["</script>"] * 9)
    saved = checkpoint.read(build(tokenizer=tokenizer))
    hostile = "</title><script>document.title = 'owned'</script>{{weights}}"
    changed = saved.config.model_copy(update={"name": hostile})
    object.__setattr__(saved, "config", changed)
    write_page(ExportJob(saved, saved.weights(), "float16"), tmp_path / "page.html")
    page = visit(tmp_path / "page.html")
    assert page.title() == f"Play · {hostile} · microgpt"
    assert page.locator(".brand").text_content() == hostile
    assert page.evaluate(f"{SERVICE}.tokenizer.encode('</script>').length") == 1


def test_a_model_too_large_for_a_page_is_refused(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microgpt.formats.html.MOST_PARAMETERS", 1000)
    with pytest.raises(UsageError, match=r"a page cannot hold this model: 7,392 parameters \(at most 1,000\)"):
        export(build(), "html", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


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
