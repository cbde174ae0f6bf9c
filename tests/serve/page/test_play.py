"""Play in a browser: texts and chats token by token, branches, the training text; by pointer, by keys, at all sizes."""

from __future__ import annotations

import json
import re

import pytest

from tests.serve.page.conftest import BYTES, NAMES, TALK, Visit, axe, everywhere, fits
from tests.serve.page.playing import ask, generate, setting, shown, text_of, wait
from tests.serve.running import Server


def test_a_text_is_that_of_every_other_route(visit: Visit, page_server: Server) -> None:
    sampling = {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.05}
    texts = [
        page_server.post("/v1/completions", {"model": NAMES, "prompt": "o", **sampling, "seed": seed}).json()
        for seed in range(20)
    ]
    first = next(seed for seed in range(19) if len(text_of(texts[seed])) > 3)
    second = first + 1
    page = visit(f"#/play/{NAMES}")
    settings = {"Temperature": "1.5", "Top-k": "5", "Top-p": "0.9", "Min-p": "0.05", "Repetition_penalty": "1.05"}
    assert generate(page, "o", **settings, Seed=str(first)) == text_of(texts[first])
    assert page.locator(".text .given").all_text_contents() == ["o"]
    page.get_by_role("button", name="Regenerate").click()
    page.wait_for_function(f"() => document.querySelector('.status').textContent.includes('seed {second}:')")
    assert wait(page) == text_of(texts[second])
    # A stop ends it; tokens of the stop are shown as cut.
    stop = text_of(texts[first])[2:4]
    assert generate(page, "o", **settings, Seed=str(first), Stop=stop) == text_of(texts[first]).partition(stop)[0]
    assert "ended by the stop" in page.locator(".status").text_content()
    assert page.locator(".t.cut").count() == 2


def test_candidates_by_pointer_and_where_they_lead(visit: Visit, page_server: Server) -> None:
    page = visit(f"#/play/{NAMES}")
    first = generate(page, "am", Temperature="1", Seed="3", **{"Top-k": "4"})
    token = page.locator(".text .drawn").first
    token.hover()
    head = page.locator(".candidates .head")
    assert re.fullmatch(rf"{first[0]} \d+\.\d+ %, a surprise of \d+\.\d bits", head.text_content())
    rows = page.locator(".candidates button")
    shares = [
        float(text.removesuffix(" %").removeprefix("< "))
        for text in page.locator(".candidates .before").all_text_contents()
    ]
    assert shares == sorted(shares, reverse=True)
    assert page.locator(".candidates .after.none").count() > 0  # top-k left some out
    other = next(row for row in rows.all() if row.get_attribute("aria-current") != "true")
    word = other.locator(".word").text_content()
    token.click()
    other.click()
    text = wait(page)
    assert text.startswith(word)
    assert page.locator(".text .t[aria-current]").text_content() == word
    # It goes on from that token's id, with the second random number of the seed.
    (chosen,) = page_server.post("/tokenize", {"model": NAMES, "content": word}).json()["tokens"]
    body = {"model": NAMES, "text": "am", "answer": [chosen], "draws": 1, "seed": 3, "temperature": 1, "top_k": 4}
    there = page_server.post("/api/play", body).text
    assert text == word + json.loads(there.split("\n\n")[-3].removeprefix("data: "))["end"]["text"]
    # The tree leads back to the first text and again to the second.
    branches = page.get_by_role("treeitem")
    assert branches.count() == 3
    assert branches.nth(2).get_attribute("aria-selected") == "true"
    page.locator(".branch").nth(1).click()
    assert shown(page) == first
    page.locator(".branch").nth(2).click()
    assert shown(page) == text
    branches.nth(2).focus()
    for keys, expected in ((("ArrowUp", "Enter"), first), (("ArrowLeft", "End", "Enter"), text)):
        for key in keys:
            page.keyboard.press(key)
        assert shown(page) == expected
        assert page.locator(":focus").get_attribute("aria-selected") == "true"
    # A candidate of the prompt changes the prompt.
    page.locator(".text .given").nth(1).click()
    rows.nth(3).click()
    wait(page)
    changed = "".join(page.locator(".text .given").all_text_contents())
    assert page.get_by_label("Begin a text").input_value() == changed != "am"


def test_by_keys_alone(visit: Visit) -> None:
    page = visit(f"#/play/{NAMES}")
    page.get_by_label("Begin a text").focus()
    page.keyboard.type("mi")
    page.keyboard.press("Control+Enter")
    text = wait(page)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.t')"):
            break
    tokens = page.locator(".text .t")
    assert tokens.nth(0).evaluate("e => e === document.activeElement")
    assert re.match(r"m, \d", tokens.nth(0).get_attribute("aria-label"))
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".candidates .head b").text_content() == (text[0] if text else "the end")
    page.keyboard.press("ArrowDown")  # into the candidates
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert tokens.nth(2).evaluate("e => e === document.activeElement")
    page.keyboard.press("Enter")
    word = "the end"
    while word == "the end" or word == text[:1]:
        page.keyboard.press("ArrowDown")
        word = page.evaluate("document.activeElement.querySelector('.word').textContent")
    page.keyboard.press("Enter")
    page.wait_for_function("word => document.querySelector('.text .drawn')?.textContent === word", arg=word)
    wait(page)
    assert page.locator("*:focus").text_content() == word  # the token that was chosen


def test_stop_and_continue_give_the_text_of_one_go(visit: Visit, page_server: Server) -> None:
    body = {"model": TALK, "messages": [{"role": "user", "content": "hi"}], "temperature": 2}
    for seed in range(50):
        there = page_server.post("/v1/chat/completions", {**body, "seed": seed}).json()
        if there["usage"]["completion_tokens"] > 8 and not there["choices"][0]["message"]["content"].startswith(
            "hello"
        ):
            break
    page = visit(f"#/play/{TALK}")
    setting(page, "Temperature").fill("2")
    setting(page, "Seed").fill(str(seed))
    setting(page, "Tokens").fill("5")
    ask(page, "hi")
    assert page.locator(".text .drawn").count() == 5
    setting(page, "Tokens").fill("")
    page.get_by_role("button", name="Continue").click()
    page.locator(".text .drawn").nth(7).wait_for()
    assert wait(page) == there["choices"][0]["message"]["content"]


def test_a_chat_is_edited_and_answered_again(visit: Visit) -> None:
    page = visit(f"#/play/{TALK}")
    setting(page, "Temperature").fill("0")
    assert ask(page, "hi") == "hello there"
    ask(page, "bye")
    turns = page.locator(".turn")
    texts = page.locator(".turn .tokens")
    assert [turn.get_attribute("aria-label") for turn in turns.all()] == ["You", "Answer", "You", "Answer"]
    assert texts.nth(0).locator(".t").all_text_contents() == ["h", "i"]  # scored, too
    turns.nth(0).get_by_role("button", name="Edit").click()
    draft = page.get_by_label("Edited message")
    draft.fill("who are you")
    draft.press("Enter")
    wait(page)
    assert turns.count() == 2
    assert texts.nth(1).text_content().removesuffix("end") == "a small model"
    page.get_by_role("button", name="Regenerate").click()
    wait(page)
    # Both conversations are in the tree.
    assert page.get_by_role("treeitem").count() == 7
    page.locator(".branch", has_text="bye").click()
    assert turns.count() == 4
    # An answer that a person has changed goes on behind the change.
    turns.nth(3).get_by_role("button", name="Edit").click()
    begun = f"{draft.input_value()[:3]} a sm"
    draft.fill(begun)
    page.get_by_role("button", name="Go on from here").click()
    page.locator(".branch .note", has_text="edited").wait_for()
    wait(page)
    assert texts.nth(3).text_content().startswith(begun)
    assert page.locator(".turn:last-child .t[aria-label$=' %']").count() >= len(begun)  # all are scored
    page.get_by_role("button", name="New chat").click()
    assert turns.count() == 0
    # A system message leads a new chat, and is edited, too.
    page.get_by_text("System message of a new chat").click()
    page.get_by_label("System message", exact=True).fill("be nice")
    ask(page, "bye")
    assert [turn.get_attribute("aria-label") for turn in turns.all()] == ["System", "You", "Answer"]
    assert texts.nth(0).text_content() == "be nice"
    turns.nth(0).get_by_role("button", name="Edit").click()
    page.get_by_label("Edited message").fill("be a model")
    page.get_by_role("button", name="Send again").click()
    page.locator(".turn.system .tokens", has_text="be a model").wait_for()
    wait(page)
    assert turns.count() == 3


def test_stop(visit: Visit, page_server: Server) -> None:
    """An answer on which one waits is told of; one that is stopped keeps its tokens, and its stream is closed."""
    page = visit(f"#/play/{BYTES}", expected=("ERR_ABORTED",))
    setting(page, "Temperature").fill("2")
    page.evaluate(
        """() => { // a stream that never ends: the service is not to be faster than the test
        const real = fetch;
        window.fetch = async (path, options) => path !== '/api/play' ? real(path, options) : (
          new Response(new ReadableStream({start(control) {
            const token = {id: 1, piece: 'x', text: 'x', logprob: -1, candidates: []};
            const event = `data: ${JSON.stringify({token})}\\n\\n`;
            window.begin = () => control.enqueue(new TextEncoder().encode(event.repeat(3)));
            options.signal.addEventListener('abort', () => control.error(new DOMException('', 'AbortError')));
          }})));
    }"""
    )
    page.get_by_label("Message", exact=True).fill("hi")
    page.get_by_label("Message", exact=True).press("Enter")
    stop = page.get_by_role("button", name="Stop")
    page.locator(".status", has_text="being generated").wait_for()
    assert stop.is_enabled()
    page.evaluate("begin()")
    page.locator(".drawn").nth(2).wait_for()
    assert "being generated" in page.locator(".status").text_content()
    stop.click()
    page.locator(".status", has_text="stopped").wait_for()
    assert page.locator(".drawn").count() == 3
    assert stop.is_disabled()
    assert page.get_by_role("button", name="Continue").is_enabled()


def test_colours(visit: Visit) -> None:
    page = visit(f"#/play/{NAMES}")
    generate(page, "em", Seed="2", Temperature="1")
    alpha = """() => [...document.querySelectorAll('.text .t')].map(
        t => Number(/, ([\\d.]+)\\)/.exec(getComputedStyle(t).backgroundColor)?.[1] ?? 1))"""
    chances = page.evaluate(
        "() => [...document.querySelectorAll('.text .t')].map(t => t.style.getPropertyValue('--p'))"
    )
    assert page.evaluate(alpha) == pytest.approx([0.45 * float(p) for p in chances], abs=0.01)
    page.get_by_role("radio", name="Probability").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="Surprise").get_attribute("aria-checked") == "true"
    assert page.evaluate(alpha) != pytest.approx([0.45 * float(p) for p in chances], abs=0.01)


def test_a_whole_text_becomes_a_prompt(visit: Visit) -> None:
    page = visit(f"#/play/{NAMES}")
    text = generate(page, "o", Temperature="0")
    page.get_by_role("button", name="Edit").click()
    assert page.get_by_label("Begin a text").input_value() == f"o{text}"
    assert page.locator(".text .given").count() == 1 + len(text) > 1
    assert page.locator(".text .drawn").count() == 0
    page.keyboard.press("Control+Enter")
    wait(page)
    assert page.get_by_role("treeitem").count() == 4


def test_the_training_text(visit: Visit) -> None:
    page = visit(f"#/play/{NAMES}")
    text = generate(page, "oli", Temperature="0")
    memory = page.locator(".memory")
    memory.locator("h2").wait_for()
    if f"oli{text}" == "olivia":
        assert "Yes: all of it is document 3 of 100" in memory.text_content()
        assert page.locator(".t.known").count() == 6
    else:
        assert "Its longest piece" in memory.text_content()


def test_it_fits_and_can_be_read(visit: Visit) -> None:
    page = visit(f"#/play/{TALK}")
    ask(page, "hi")
    page.locator(".memory h2").wait_for()
    page.get_by_role("button", name="Regenerate").click()
    wait(page)
    page.locator(".text .drawn").first.click()
    everywhere(page)
    page.goto(page.url.replace(TALK, NAMES))
    page.get_by_label("Begin a text").wait_for()
    generate(page, "emmaemmaemmaemmaemma")
    page.get_by_role("radio", name="Surprise").click()
    fits(page)
    axe(page)
