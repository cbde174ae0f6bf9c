"""Play when something happens: mistakes, another checkpoint, hostile texts, a service that ends, a reload."""

from __future__ import annotations

from pathlib import Path

from tests.serve.page.conftest import NAMES, TALK, Visit
from tests.serve.page.playing import generate, setting, shown, text_of, wait
from tests.serve.running import Server, serving


def test_mistakes_are_told_where_they_are_made(visit: Visit) -> None:
    page = visit(f"#/play/{NAMES}", expected=("status of 400",))
    page.get_by_label("Begin a text").fill("mé")
    page.get_by_role("alert").filter(has_text="'é' at position 2 is not in this tokenizer's").wait_for()
    assert page.get_by_label("Begin a text").get_attribute("aria-invalid") == "true"
    page.get_by_label("Begin a text").fill("me")
    page.wait_for_function("() => document.querySelector('[role=alert]').textContent === ''")
    setting(page, "Top-k").fill("-3")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("alert").filter(has_text="Top-k: ").wait_for()
    generate(page, "emmaemmaemmaemma", **{"Top-k": "0"})
    assert page.locator(".lost").count() == 1


def test_the_same_prompt_at_another_checkpoint(visit: Visit, page_server: Server) -> None:
    """The text goes on from the same prompt with the same seed; the tree keeps those of all checkpoints."""
    page = visit(f"#/play/{NAMES}")
    first = generate(page, "o", Temperature="1", Seed="5")
    own = page.locator(".text .t").first.get_attribute("aria-label")
    page.get_by_label("Checkpoint", exact=True).fill("0")
    page.wait_for_url("**?at=20")
    page.get_by_role("treeitem").filter(has_text="step 20").first.wait_for()
    body = {"model": f"{NAMES}@20", "prompt": "o", "temperature": 1, "seed": 5}
    assert wait(page) == text_of(page_server.post("/v1/completions", body).json())
    assert page.locator(".text .t").first.get_attribute("aria-label") != own
    page.locator(".branch").nth(1).click()
    assert shown(page) == first


HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</textarea><script>document.title='owned'</script>",
    "javascript:document.title='owned'",
    "{{constructor.constructor('document.title=1')()}}",
    "&lt;b&gt;&#x3c;svg/onload=1>",
    "\u202e\u0000\u2028<style>*{display:none}</style>",
]


def test_no_text_becomes_markup(visit: Visit) -> None:
    """Tokens, candidates, the training text, notes of branches and errors, as the service might send them."""
    page = visit(f"#/play/{NAMES}", expected=("status of 400",))
    page.evaluate(
        """texts => {
        const real = fetch;
        const token = (text) => ({id: 1, piece: text, text, logprob: -1, candidates: [
            {id: 1, text, logprob: -1, share: 0.5}, {id: 2, text: text + '!', logprob: -2, share: 0.5}]});
        const events = [{prompt: texts.map(token), dropped: 0}, ...texts.map((text) => ({token: token(text)})),
            {end: {reason: 'stop', text: texts.join(''), ending: token(texts[0]), full: false, seed: 1}}];
        const stream = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('');
        const piece = {start: 0, end: 40, document: 1, held_out: true, before: texts[0], after: texts[1]};
        const memory = {known: true, source: texts[0], unit: texts[1], documents: 9, longest: piece, times: 2,
            pieces: [piece, piece], searched: 1e6};
        window.fetch = async (path, options) => (
          path === '/api/play' ? new Response(stream) :
          path === '/api/memory' ? new Response(JSON.stringify(memory)) : real(path, options));
    }""",
        HOSTILE,
    )
    page.get_by_label("Begin a text").fill(HOSTILE[0])
    page.get_by_role("alert").filter(has_text="is not in this tokenizer's vocabulary").wait_for()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator(".memory details").wait_for()
    assert [text.strip() for text in page.locator(".text .drawn:not(.ending)").all_text_contents()] == HOSTILE
    page.locator(".text .drawn").nth(1).click()
    page.locator(".candidates button").nth(1).click()
    page.locator(".branch .note").wait_for()
    assert page.title() == "Play · names · microgpt"
    assert page.locator("main :is(img, script, style, svg)").count() == 0


def test_a_service_that_has_ended(visit: Visit, runs_folder: Path, tmp_path: Path) -> None:
    with serving(runs_folder / NAMES, log=tmp_path / "log") as server:
        page = visit(f"#/play/{NAMES}", url=server.url, expected=("ERR_CONNECTION",))
        generate(page, "e")
    again = page.get_by_role("button", name="Regenerate")
    again.click()
    page.get_by_role("alert").filter(has_text="The service does not answer").wait_for()
    port = server.url.rpartition(":")[2]
    with serving(runs_folder / NAMES, log=tmp_path / "log", port="", PORT=port):
        again.click()
        page.wait_for_function("() => document.querySelector('[role=alert]').textContent === ''")
        wait(page)


def test_a_reload_loses_nothing_that_was_typed(visit: Visit) -> None:
    page = visit(f"#/play/{NAMES}")
    text = generate(page, "am", Temperature="1.5", Seed="4", **{"Top-k": "3"})
    page.get_by_role("radio", name="Surprise").click()
    page.locator(".t.drawn").first.click()
    page.locator(".candidates .list button").nth(1).click()
    other = wait(page)
    page.reload()
    page.locator(".t.drawn").first.wait_for()
    assert shown(page) == other
    page.get_by_role("treeitem", name="Text").first.click()
    assert shown(page) == text
    page.locator(".t.drawn").first.focus()
    page.locator(".candidates .list button").nth(9).wait_for()
    assert page.get_by_label("Begin a text").input_value() == "am"
    assert page.get_by_role("radio", name="Surprise").get_attribute("aria-checked") == "true"
    page.get_by_role("button", name="Generate", exact=True).click()
    assert wait(page) == text
    page.goto(page.url.replace(NAMES, TALK))
    page.get_by_text("System message of a new chat").click()
    page.get_by_label("System message", exact=True).fill("Be brief.")
    page.reload()
    assert page.get_by_label("System message", exact=True).input_value() == "Be brief."
