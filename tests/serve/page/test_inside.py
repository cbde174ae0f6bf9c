"""Look inside in Chromium: what is shown is what the model's engine computes; by keyboard, at every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microgpt.inference.inspection import Inspector, probabilities
from microgpt.inference.interventions import Change
from microgpt.inference.language_model import LanguageModel
from tests.serve.page.conftest import BYTES, NAMES, TALK, Visit, everywhere

sync_api = pytest.importorskip("playwright.sync_api")
PANELS = ("attention", "residual", "lens", "neurons", "embeddings", "weights", "intervene", "history")


@pytest.fixture(scope="module")
def names(runs_folder: Path) -> Inspector:
    return Inspector(LanguageModel.open(runs_folder / NAMES))


def percent(share: float) -> str:
    """As the page shows it."""
    p = 100 * float(share)
    return "0 %" if p == 0 else "< 0.01 %" if p < 0.005 else f"{p:.2f} %" if p < 10 else f"{p:.1f} %"


def look(page: Any, text: str, n: int) -> None:
    """Type a text of n tokens and wait for them."""
    page.get_by_label("to look at").fill(text)
    sync_api.expect(page.locator(".strip button")).to_have_count(n, timeout=60_000)


def panel(page: Any, title: str) -> None:
    page.get_by_role("tab", name=title).click()


def candidates(page: Any) -> dict[str, list[str]]:
    """The rows of the panel's last table, by their first cell."""
    rows = page.locator("#subject table").last.locator("tbody tr").all()
    cells = [row.locator("th, td").all_text_contents() for row in rows]
    return {first: rest for first, *rest in cells}


def first_row(page: Any, *cells: str) -> None:
    """Wait for these cells at the beginning of the consequences' first row."""
    expect = sync_api.expect
    row = page.locator(".result tbody tr").first.locator("th, td")
    for i, cell in enumerate(cells):
        expect(row.nth(i)).to_have_text(cell, timeout=60_000)


def test_attention_is_read_both_ways_by_keyboard(visit: Visit, names: Inspector) -> None:
    page = visit(f"#/inside/{NAMES}")
    look(page, "emma", 5)
    attention = names.activations(names.source.encode("emma")[0])["layer0.attention"]
    page.get_by_role("gridcell", name="Layer 0, head 0").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Layer 0, head 1").wait_for()
    page.get_by_role("button", name="4: a").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => document.querySelector('.strip [aria-current]').dataset.at === '2'")
    labels = [button.get_attribute("aria-label") for button in page.locator(".strip button").all()]
    for at, label in enumerate(labels):
        seen = attention[1, at, 2] if at > 2 else attention[1, 2, at]
        assert label.endswith(f"{'looks at it' if at > 2 else 'it looks here'}: {percent(seen)}"), label
    table = page.locator("#subject details table tbody tr").first.locator("td").all_text_contents()
    best, most = int(attention[1, 2].argmax()), int(attention[1, :, 2].argmax())
    assert table == [
        f"{best}: {labels[best].split(', ')[0][3:]}",
        percent(attention[1, 2, best]),
        f"{most}: {labels[most].split(', ')[0][3:]}",
        percent(attention[1, most, 2]),
    ]
    page.locator("canvas.large").hover(position={"x": 2, "y": 2})
    assert page.locator(".readout").text_content() == "“<bos>” (0) looks at “<bos>” (0): 100.0 %"


def test_the_lens_ends_with_the_models_prediction(visit: Visit, names: Inspector) -> None:
    page = visit(f"#/inside/{NAMES}")
    look(page, "ol", 3)
    panel(page, "Logit lens")
    page.get_by_role("button", name="2: l").click()
    p = probabilities(names.activations(names.source.encode("ol")[0])["logits"])[2]
    page.get_by_role("heading", name="After “l” (2), layer 0 MLP").wait_for()
    expected = {names.source.tokenizer.token(int(i)): [percent(p[i])] for i in np.argsort(-p)[:5]}
    assert candidates(page) == expected
    page.locator("#subject td.chosen").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("heading", name="After “o” (1), layer 0 attention").wait_for()
    panel(page, "Residual stream")
    norm = np.linalg.norm(names.activations(names.source.encode("ol")[0])["embedding"][1])
    assert f"“o” (1), embedding: {norm:.2f}" in (page.locator("#subject [role=status]").text_content() or "")


def test_a_part_is_switched_off_and_on_again(visit: Visit, names: Inspector) -> None:
    page = visit(f"#/inside/{NAMES}")
    look(page, "emma", 5)
    panel(page, "Intervene")
    tokens = names.source.encode("emma")[0]

    def shown(*changes: Change, text: list[int] = tokens) -> None:
        p = probabilities(names.activations(tokens)["logits"])[4]
        q = probabilities(names.activations(text, changes)["logits"])[4]
        best = int(p.argmax())
        first_row(page, names.source.tokenizer.token(best), percent(p[best]), percent(q[best]))

    shown()
    page.get_by_role("button", name="Head 2 of layer 0").press("Enter")
    page.get_by_text("1 change is in effect.").wait_for()
    shown(Change("head", 0, 2))
    page.get_by_role("button", name="Undo: head 2 of layer 0 off").click()
    shown()
    page.get_by_label("Neuron", exact=True).fill("7")
    page.get_by_label("Scale of what it adds").press("Home")
    shown(Change("neuron", 0, 7, -4))
    page.get_by_role("button", name="Undo all").click()
    page.locator(".strip button").nth(2).click()
    page.get_by_label("becomes").select_option(label="v")
    page.get_by_role("button", name="2: v, swapped").wait_for()
    page.locator(".strip button").nth(4).click()
    shown(text=names.source.encode("evma")[0])
    panel(page, "Attention")
    assert page.get_by_text("1 change is in effect.").is_visible(), "it shows in every panel"


def test_neurons_embeddings_and_weights(visit: Visit, names: Inspector) -> None:
    page = visit(f"#/inside/{NAMES}")
    panel(page, "Neurons")
    page.locator(".examples li").first.wait_for()
    neuron = int(page.locator(".neurons-list [aria-pressed=true]").text_content())
    page.get_by_role("button", name="Switch it off").click()
    page.get_by_text("1 change is in effect.").wait_for()
    page.get_by_role("button", name="Undo its change").wait_for()
    assert neuron < 64
    panel(page, "Embeddings")
    page.locator(".point[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("is nearest to").wait_for()
    assert page.locator(".point").count() == names.model.vocab
    panel(page, "Weights")
    page.get_by_role("button", name="layer0.attn_wo").click()
    page.get_by_role("heading", name="layer0.attn_wo").wait_for()
    page.locator("canvas.matrix").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    told = page.locator("#subject .readout").text_content()
    where, value = told.split(": ")
    assert where == "row 2, column 1"
    assert float(value) == pytest.approx(names.weights["layer0.attn_wo"][2, 1], abs=0.01)


def test_the_scrubber_keeps_the_text_and_shows_each_checkpoint(visit: Visit, runs_folder: Path) -> None:
    page = visit(f"#/inside/{NAMES}")
    look(page, "mila", 5)
    panel(page, "Intervene")
    page.get_by_label("to look at").evaluate("element => element.dataset.same = 'yes'")
    for step, key in ((20, "Home"), (40, "ArrowRight")):
        page.get_by_label("Checkpoint", exact=True).press(key)
        then = Inspector(LanguageModel.open(runs_folder / NAMES, checkpoint=step))
        p = probabilities(then.activations(then.source.encode("mila")[0])["logits"])[4]
        best = then.source.tokenizer.token(int(p.argmax()))
        first_row(page, best, percent(p.max()))
        assert page.get_by_label("to look at").input_value() == "mila"
        assert page.evaluate("document.activeElement.id") == "at"
        assert page.locator("textarea[data-same]").count() == 1, "the view is not built anew"
    page.get_by_role("link", name="Watch").click()
    page.locator("main.watch").wait_for()
    page.go_back()
    page.locator("main.inside").wait_for()
    sync_api.expect(page.locator(".strip button")).to_have_count(5, timeout=60_000)
    assert page.get_by_label("to look at").input_value() == "mila"


def test_what_is_typed_before_the_first_text_has_come_stays(visit: Visit) -> None:
    page = visit(f"#/watch/{NAMES}")
    held: list[Any] = []
    page.route("**/v1/completions", lambda route: held.append(route))
    page.get_by_role("link", name="Look inside").click()
    look(page, "mia", 4)
    assert len(held) == 1
    with page.expect_response("**/v1/completions"):
        held[0].continue_()
    panel(page, "Logit lens")
    page.get_by_role("heading", name="After “a” (3)").wait_for()
    assert page.get_by_label("to look at").input_value() == "mia"


def test_no_first_text_comes_where_somebody_is_about_to_type(visit: Visit) -> None:
    page = visit(f"#/watch/{NAMES}")
    held: list[Any] = []
    page.route("**/v1/completions", lambda route: held.append(route))
    with page.expect_request("**/v1/completions"):
        page.get_by_role("link", name="Look inside").click()
    page.get_by_label("to look at").focus()
    with page.expect_response("**/v1/completions"):
        held[0].continue_()
    sync_api.expect(page.locator(".strip button")).to_have_count(1)
    page.keyboard.type("ol")
    sync_api.expect(page.locator(".strip button")).to_have_count(3)
    assert page.get_by_label("to look at").input_value() == "ol"


def test_the_same_text_at_each_checkpoint(visit: Visit, runs_folder: Path) -> None:
    page = visit(f"#/inside/{NAMES}")
    look(page, "em", 3)
    panel(page, "Over time")
    rows = page.locator(".history tbody tr")
    sync_api.expect(page.locator(".history canvas")).to_have_count(5, timeout=60_000)
    for i, step in enumerate((20, 40, 60, 80, 100)):
        then = LanguageModel.open(runs_folder / NAMES, checkpoint=step)
        p = probabilities(Inspector(then).activations(then.encode("em")[0])["logits"])
        bits = -np.log2([p[at, token] for at, token in enumerate(then.encode("em")[0][1:])]).mean()
        cells = rows.nth(i).locator("th, td").all_text_contents()
        assert cells[0] == str(step)
        assert float(cells[3]) == pytest.approx(bits, abs=0.006)
        assert cells[4].startswith(f"{then.tokenizer.token(int(p[2].argmax()))} {percent(p[2].max())}")
        assert cells[5] == then.generate("em", seed=1, temperature=0.5, max_tokens=24).read()
    rows.nth(2).get_by_role("button").press("Enter")
    page.wait_for_url(f"**/#/inside/{NAMES}?at=60")
    page.locator(".history tr.now", has_text="60").wait_for()


def test_text_is_never_markup_and_errors_are_told(visit: Visit) -> None:
    page = visit(f"#/inside/{BYTES}", expected=("400",))
    bad = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    page.get_by_label("to look at").fill(bad)
    page.wait_for_function("() => document.querySelectorAll('.strip button').length > 20")
    assert "".join(page.locator(".strip button").all_text_contents()).replace("␣", " ").find(bad) > 0
    assert page.locator("main img, main script").count() == 0
    page.get_by_label("Run").select_option(TALK)
    page.get_by_role("heading", name=f"Look inside {TALK}").wait_for()
    page.locator(".strip button", has_text="<user>").wait_for()
    page.get_by_label("to look at").fill("Ω")
    page.get_by_role("alert").filter(has_text="'Ω'").wait_for()


def test_every_panel_fits_and_is_accessible(visit: Visit) -> None:
    page = visit(f"#/inside/{NAMES}")
    look(page, "amelia", 7)
    ready = {"neurons": ".examples li", "embeddings": ".point", "weights": ".ramp", "intervene": ".result tr"}
    ready["history"] = "tr:last-child canvas"
    for name in PANELS:
        page.locator(f"#tab-{name}").click()
        page.locator(f"#subject {ready.get(name, 'td, canvas')}").first.wait_for()
        everywhere(page, None if name == "attention" else "#subject")
        if name == "neurons":  # the focus stays where a press builds the panel anew
            page.get_by_role("button", name="Switch it off").press("Enter")
            sync_api.expect(page.get_by_role("button", name="Undo its change")).to_be_focused()
            page.keyboard.press("Enter")
