"""The page in a real browser, with the network cut off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.data import chat_template
from microgpt.data.conversations import Message
from microgpt.errors import UsageError
from microgpt.formats import export
from microgpt.inference.chat import ChatModel
from microgpt.tokenizers import KINDS, train
from microgpt.tokenizers.char import Char
from tests.formats.conftest import CLASSIC, MODERN, NANOCHAT, Build, greedy, logits

sync_api = pytest.importorskip("playwright.sync_api")

TEXTS = ["The cat (née Zoë) sat: it's 12345 degrees — “Oh!”", "  two  spaces and lines 🙂 don't"] * 3


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
        page.on("request", lambda request: noise.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert noise == []


WRITTEN = "#text button:not(.end, .given, .role)"


def write(page: Any, prompt: str, temperature: float = 0, ask: str = "Begin a text", button: str = "Write") -> str:
    """The text that a page writes at full speed."""
    page.get_by_label("Full speed").check()
    page.get_by_label(ask).fill(prompt)
    page.get_by_label("Temperature").fill(str(temperature))
    page.get_by_role("button", name=button, exact=True).click()
    page.locator("#write:not([disabled])").wait_for()
    return "".join(page.locator(WRITTEN).all_text_contents())


def send(page: Any, message: str, temperature: float = 0) -> str:
    """The answer of a chat model's page."""
    return write(page, message, temperature, "Your message", "Send")


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
    theirs = page.evaluate("ids => ids.map((id, at) => [...model.logits(id, at)])", ids)
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
        assert page.evaluate("text => tokenizer.encode(text)", text) == tokenizer.encode(text).tolist()
    same = export(source, "safetensors", tmp_path / "same", storage="float16").path
    spelled = page.evaluate(
        "ids => { const d = tokenizer.decoder(); return ids.map(d).join(''); }", [*range(min(30, tokenizer.vocab_size))]
    )
    assert spelled == tokenizer.stream().feed(range(min(30, tokenizer.vocab_size)))
    if roles:
        answer = ChatModel.open(same, engine="manual", dtype="float64").answer("two", temperature=0).read()
        assert send(page, "two").strip() == answer.strip()
        return
    for prompt in ("", "two"):
        assert write(page, prompt).strip() == greedy(same, prompt).strip()


def test_a_new_line_begins_a_line(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(tokenizer=Char("\nab"), block_size=8), "html", tmp_path / "page.html").path)
    write(page, "ab")
    page.evaluate("() => { for (const token of [1, 0, 2]) add(token, steps[0].logits); }")
    buttons = page.locator("#text button").all()
    assert [button.text_content() for button in buttons[-3:]] == ["a", "\n", "b"]
    before, new, after = (button.bounding_box() for button in buttons[-3:])
    assert before["y"] == new["y"] < after["y"]
    assert new["width"] > 2
    page.evaluate("() => { branch(2, 1); stop(); }")
    written = page.locator("#text button").all_text_contents()
    assert page.locator("#text br").count() == "".join(written).count("\n")


def test_a_person_at_the_keyboard(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(init_std=0.1, block_size=24), "html", tmp_path / "page.html").path)
    expect = sync_api.expect
    page.get_by_label("Begin a text").fill("ab")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Begin a text").press("Control+Enter")
    page.locator("#write:not([disabled])").wait_for()
    written = page.locator(WRITTEN)
    first = written.nth(0)
    first.focus()
    expect(first).to_have_attribute("aria-label", re.compile(r"^\w, \d"))
    page.keyboard.press("ArrowRight")
    expect(written.nth(1)).to_be_focused()
    expect(page.get_by_text(re.compile("^Token 4: “"))).to_be_visible()
    shares = [float(x.split()[-2]) for x in page.locator("#candidates .share").all_text_contents()]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 8
    # Another candidate takes the token's place, and the text goes on from there.
    other = page.locator("#candidates button").nth(3)
    word = other.locator(".word").text_content()
    kept = written.nth(0).text_content()
    other.press("Enter")
    page.locator("#write:not([disabled])").wait_for()
    assert [kept, word] == written.all_text_contents()[:2]


def test_the_newest_tokens_candidates_are_shown_until_another_is_looked_at(
    build: Build, tmp_path: Path, visit: Any
) -> None:
    page = visit(export(build(init_std=0.1, block_size=24), "html", tmp_path / "page.html").path)
    expect = sync_api.expect
    write(page, "ab")
    count = page.locator("#text button").count()
    expect(page.locator("#about-token")).to_have_text(re.compile(rf"^Token {count}: "))
    page.locator("#text button.given").nth(1).click()  # a token of the prompt: it can be looked at, not replaced
    expect(page.locator("#about-token")).to_have_text(re.compile(r"^Token 2: “b”, .*It was given\.$"))
    assert page.locator("#candidates button:not([disabled])").count() == 0
    logits = page.evaluate("[...steps[1].logits]")
    share = np.exp(np.array(logits) - max(logits))
    expected = float(share[1] / share.sum())
    assert page.evaluate("steps[1].p") == pytest.approx(expected, rel=1e-6)


def test_the_temperature_moves_the_bars(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(init_std=0.3), "html", tmp_path / "page.html").path)
    write(page, "a")
    page.locator(WRITTEN).nth(0).focus()
    highest = []
    for temperature in ("0", "0.5", "1", "2"):
        page.get_by_label("Temperature").fill(temperature)
        highest.append(page.locator("#candidates meter").first.evaluate("meter => meter.value"))
    assert highest[0] == 1
    assert highest == sorted(highest, reverse=True)
    assert highest[-1] < highest[1]
    assert page.evaluate("probabilities(steps[1].logits, 2)[steps[1].token]") > 0


def test_text_appears_at_a_readable_pace_or_at_full_speed(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(init_std=0.02, block_size=16), "html", tmp_path / "page.html").path)
    page.evaluate("() => { const inner = choose; choose = (z, t) => { z[26] = -1e9; return inner(z, t); }; }")
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator("#write:not([disabled])").wait_for()
    seconds = float(re.search(r"16 tokens in ([\d.]+) s", page.get_by_role("status").text_content())[1])
    assert seconds >= 0.8  # 16 times 60 ms, less the last one
    page.get_by_label("Full speed").check()
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator("#write:not([disabled])").wait_for()
    faster = float(re.search(r"16 tokens in ([\d.]+) s", page.get_by_role("status").text_content())[1])
    assert faster < seconds


def test_a_chat_model_chats(build: Build, tmp_path: Path, visit: Any) -> None:
    """Two messages: the second prompt holds the first exchange, as the terminal's does."""
    tokenizer = train("char", TEXTS, roles=True)
    source = build(tokenizer=tokenizer, block_size=96, init_std=0.2)
    page = visit(export(source, "html", tmp_path / "page.html").path)
    model = ChatModel.open(export(source, "safetensors", tmp_path / "same", storage="float16").path, engine="manual")
    expect = sync_api.expect
    expect(page.get_by_role("button", name="New conversation")).to_be_visible()
    page.evaluate("""() => { // an answer ends after six tokens
        const inner = choose;
        choose = (z, t) => seen.length >= given + 6 ? end : inner(z, t);
    }""")
    talk: list[dict[str, str]] = []
    for message in ("two cats", "sat"):
        talk.append({"role": "user", "content": message})
        answer = send(page, message)
        assert answer == model.answer(talk, temperature=0, max_tokens=6).read()
        assert page.get_by_label("Your message").input_value() == ""
        talk.append({"role": "assistant", "content": answer})
        prompt = chat_template.prompt([Message(**part) for part in talk[:-1]], tokenizer, 96).tokens
        assert page.evaluate("seen.slice(0, given)") == prompt
    assert page.locator("#text .role").all_text_contents() == ["You:", "Model:"] * 2
    assert page.evaluate("seen.length - given") == 7
    send(page, " ")
    expect(page.get_by_role("status")).to_have_text("Type a message first.")
    page.get_by_role("button", name="New conversation").click()
    assert page.locator("#text button").count() == 0
    answer = send(page, "two cats")
    assert answer == talk[1]["content"]


@pytest.mark.parametrize("block", [16, 30, 64])
def test_a_conversation_that_is_too_long_is_cut_as_ours(build: Build, tmp_path: Path, visit: Any, block: int) -> None:
    tokenizer = train("char", TEXTS, roles=True)
    page = visit(export(build(tokenizer=tokenizer, block_size=block), "html", tmp_path / "page.html").path)
    talks = [["two cats sat on it" * 3], ["two", "cats", "sat"], ["two cats sat", "spaces and lines", "two"]]
    for texts in talks:
        roles = ["user", "assistant"] * 2
        messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
        ours = chat_template.prompt(messages, tokenizer, block)
        turns = [chat_template.turn(message, tokenizer).tokens for message in messages]
        found = page.evaluate("([turns, block]) => chatPrompt(turns, special, block)", [turns, block])
        assert (found["tokens"], found["dropped"]) == (ours.tokens, ours.dropped)
        whole = [token for turn in turns for token in turn]
        assert page.evaluate("tokens => turnsOf(tokens, end)", whole) == turns
        assert page.evaluate("tokens => turnsOf(tokens, end)", whole[:-1]) == turns


def test_an_unknown_character_is_told(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(), "html", tmp_path / "page.html").path)
    assert write(page, "né") == ""
    sync_api.expect(page.get_by_role("status")).to_have_text("This model does not know “é”.")
    sync_api.expect(page.get_by_label("Begin a text")).to_be_focused()


def test_stop_and_temperature(build: Build, tmp_path: Path, visit: Any) -> None:
    page = visit(export(build(init_std=0.02, block_size=4096, n_layer=4), "html", tmp_path / "page.html").path)
    page.get_by_label("Temperature").fill("2")
    sync_api.expect(page.locator("#shown")).to_have_text("2.00")
    endless = "() => { const inner = choose; choose = (z, t) => { z[26] = -1e9; return inner(z, t); }; }"
    page.evaluate(endless)
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator("#text button").nth(5).wait_for()
    page.get_by_role("button", name="Stop").click()
    sync_api.expect(page.get_by_role("status")).to_have_text(re.compile(r"^Stopped after \d+ tokens\.$"))
    count = page.locator("#text button").count()
    page.wait_for_timeout(100)
    assert 5 < page.locator("#text button").count() == count < 4000
    assert len(set(page.locator("#text button").all_text_contents())) > 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_it_fits_and_can_be_read(build: Build, tmp_path: Path, visit: Any, scheme: str, width: int) -> None:
    path = export(build("a-name-that-is-quite-long" * 3), "html", tmp_path / "page.html").path
    size = {"width": width, "height": 700}
    page = visit(path, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    write(page, "abc")
    page.locator("#text button").nth(0).focus()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    low = page.evaluate(CONTRAST)
    assert low == []
    assert page.evaluate("getComputedStyle(document.querySelector('#text button')).transitionDuration") == "0s"
    named = "(e) => e.ariaLabel || e.labels?.length || e.textContent.trim()"
    unnamed = f"[...document.querySelectorAll('button, input, textarea')].filter(e => !({named})(e)).length"
    assert page.evaluate(unnamed) == 0


# Every text whose contrast with what lies behind it is below 4.5 to 1 (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = (under, over) => {
    for (const colour of [under, over]) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return `rgb(${canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).join()})`;
  };
  const behind = (e) => paint(e.parentElement ? behind(e.parentElement) : 'white', getComputedStyle(e).backgroundColor);
  const light = (colour) => {
    const part = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.match(/\\d+/g).map(Number).map(part);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.offsetParent || e.disabled || e.tagName === 'SCRIPT') continue;
    const a = light(behind(e)), b = light(paint(behind(e), getComputedStyle(e).color));
    const ratio = Math.max(a, b) / Math.min(a, b);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.className} ${ratio.toFixed(2)}`);
  }
  return low;
}"""


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
    assert page.title() == f"{hostile} · microgpt"
    assert page.get_by_role("heading", level=1).text_content() == hostile
    assert page.evaluate("tokenizer.encode('</script>').length") == 1


def test_a_model_too_large_for_a_page_is_refused(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microgpt.formats.html.MOST_PARAMETERS", 1000)
    with pytest.raises(UsageError, match=r"a page cannot hold this model: 7,392 parameters \(at most 1,000\)"):
        export(build(), "html", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
