"""The page in a real browser, with the network cut off."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.errors import UsageError
from microgpt.formats import export
from microgpt.inference.chat import ChatModel
from microgpt.inference.evaluate import evaluate
from microgpt.inference.language_model import LanguageModel
from microgpt.tokenizers import KINDS, train
from tests.formats.conftest import CLASSIC, MODERN, NANOCHAT, SERVICE, Build, greedy, logits
from tests.serve.page.conftest import axe, fits
from tests.serve.page.playing import ask, generate, shown, wait

sync_api = pytest.importorskip("playwright.sync_api")

TEXTS = ["The cat (née Zoë) sat: it's 12345 degrees — “Oh!”", "  two  spaces and lines 🙂 don't"] * 3


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


def test_several_models_are_one_by_the_mean_of_their_probabilities(
    build: Build, tmp_path: Path, visit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of other sizes, families and contexts: the text of a seed, and the scores; Look inside shows the first."""
    paths = [build("one", init_std=0.2), build("two", seed=2, n_layer=1, n_embd=8, block_size=16, **MODERN)]
    words, out = [*map(str, paths)], tmp_path / "page.html"
    (tmp_path / "text.txt").write_text("ab\nc\n")
    assert (
        main(["export", *words, "--to", "html", "--out", str(out), "--data", str(tmp_path / "text.txt"), "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    same = [export(path, "safetensors", tmp_path / f"same-{i}", storage="float16").path for i, path in enumerate(paths)]
    ours, _ = LanguageModel.open_all(same, dtype="float64")
    page = visit(out)
    ids = [26, *range(15)]
    theirs = page.evaluate(f"ids => ids.map((id, at) => [...{SERVICE}.model.logits(id, at)])", ids)
    expected, _ = ours.engine.logits(ours.state, np.array(ids, np.int32))
    assert np.abs(np.array(theirs) - expected).max() < 1e-5
    assert write(page, "ab", 0.8, Seed="7") == ours.generate("ab", seed=7, temperature=0.8).read()
    assert "An ensemble of 2 GPTs of" in page.locator(".facts").text_content()
    asked = f"{SERVICE}.answer('/api/inside/text', {{ body: '{{\"text\": \"ab\"}}' }})"
    shape = page.evaluate(f"{asked}.then((answer) => answer.json())")
    assert (shape["n_layer"], shape["n_embd"], shape["block_size"]) == (2, 16, 16)
    loss = evaluate(ours, str(tmp_path / "text.txt"), samples=0).loss
    assert told["quality"][1]["loss"] == pytest.approx(loss, rel=1e-5)
    assert main(["export", *words, "--to", "gguf", "--out", str(tmp_path / "x")]) == 2
    assert "--to gguf: holds one model, got 2 runs; several can become html" in capsys.readouterr().err
