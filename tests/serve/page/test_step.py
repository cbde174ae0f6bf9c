"""Step through: what the page says of each number is true, and a learner gets everywhere by mouse and by keyboard."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from microgpt.config import Config
from microgpt.training.train import train
from tests.serve.page.conftest import NAMES, Visit, axe, everywhere
from tests.serve.running import Server, serving

CHECK = Path(__file__).with_name("step_check.js").read_text(encoding="utf-8")
CHECK = CHECK[CHECK.index("async (body)") :]
WALK = f"#/step/{NAMES}?at=40"


@pytest.fixture(scope="module")
def options_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model with every option that adds an operation, or changes one."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "text.txt").write_text("ab\nbacab\n<b>&amp;\n", encoding="utf-8")
    shape = {"n_layer": 2, "n_embd": 8, "n_head": 2, "block_size": 6}
    options = {"family": "nanochat", "activation": "gelu", "tie_embeddings": True, "softcap": 3.0, "dropout": 0.2}
    sections: dict[str, Any] = {
        "data": {"path": str(folder / "text.txt")},
        "model": shape | options,
        "optim": {"weight_decay": 0.1, "clip_norm": 0.1},
        "run": {"steps": 4, "checkpoint_every": 2, "samples": 0},
    }
    train(Config.from_dict(sections), folder / "options")
    with serving(folder / "options", log=folder / "log") as server:
        yield server


def test_the_formulas_are_those_of_the_numbers(visit: Visit, options_server: Server) -> None:
    """Every number is its formula of the numbers it is said to come from; every gradient the sum of what comes back."""
    page = visit(WALK)
    for found in (
        page.evaluate(CHECK, {"model": "names@40", "text": "olivia"}),
        visit("", url=options_server.url).evaluate(CHECK, {"model": "options@2"}),
    ):
        assert found["numbers"] > 500
        assert found["values"] < 1e-12
        assert found["gradients"] < 1e-12
        assert found["crossed"] == 0


def test_a_walk_from_the_first_token_to_the_last_weight(visit: Visit) -> None:
    page = visit(WALK)
    title = page.locator("#step-title")
    title.wait_for()
    walk = """() => {
      const [title, next] = [document.querySelector('#step-title'), document.querySelectorAll('.controls button')[1]];
      const seen = [];
      while (seen.at(-1) !== title.textContent) {
        seen.push(title.textContent);
        if (!document.querySelector('.number-panel h2') || !document.querySelector('td.chosen')) throw 'no number';
        next.click();
      }
      return seen;
    }"""
    seen = [text.partition(": ")[2] for text in page.evaluate(walk)]
    assert seen[-1] == "layer 0, new layer0.mlp_fc2"
    order = ["token embedding", "layer 0, query", "layer 0, scores", "layer 0, mix of values", "logits", "loss"]
    order += ["back through loss", "layer 0, back through query", "back through token embedding", "new wte"]
    assert [name for name in seen if name in order] == order
    assert len(seen) == len(set(seen)) == int(re.findall(r"of (\d+)", title.inner_text())[0])


def test_the_code_beside_an_operation(visit: Visit) -> None:
    page = visit(WALK)
    page.locator(".where select").select_option(label="layer 0: query")
    current = page.locator(".code [aria-current='step']")
    assert "query = linear(h" in current.inner_text()
    box, line = page.locator(".listing").bounding_box(), current.bounding_box()
    assert box["y"] <= line["y"] <= box["y"] + box["height"], "the line is in view"
    for name, text in {
        "scalar.py": "for name in",
        "tensor.py": "split(linear(x",
        "manual.py": "q = head_forward(",
    }.items():
        page.get_by_role("tab", name=name).click()
        assert text in page.locator(".code [aria-current='step']").inner_text()
    page.locator(".controls button", has_text="Adam").click()
    assert "rules.adam(" in page.locator(".code [aria-current='step']").inner_text()
    page.get_by_role("tab", name="optim.py").click()
    assert page.locator(".code [aria-current]").count() == 5


def test_a_number_is_followed(visit: Visit) -> None:
    """From the loss by clicks alone back to a weight, its update, and its gradient's parts that add up to it."""
    page = visit(WALK)
    page.locator(".where select").select_option(label="loss")
    chosen = page.locator(".number-panel h2 .mono")
    assert chosen.inner_text() == "loss"
    for name in ("losses[2]", "probabilities[2]["):
        page.get_by_role("region", name="Where it comes from").locator("button", has_text=name).first.click()
        assert chosen.inner_text().startswith(name)
    page.locator(".where select").select_option(label="layer 0: query")
    page.locator("[data-array='layer0.attn_wq'] td[data-index='5']").click()
    assert chosen.inner_text() == "layer0.attn_wq[0][5]"
    gradient = number(page.locator(".number-panel dd").nth(1).inner_text())
    parts = page.get_by_role("region", name="Where it goes to").locator("tr td:last-child").all_inner_texts()
    assert math.isclose(sum(map(number, filter(None, parts))), gradient, rel_tol=0.02, abs_tol=1e-4)
    page.get_by_role("button", name="To its update").click()
    assert chosen.inner_text() == "layer0.attn_wq[0][5]"
    before, _, after = map(number, page.locator(".number-panel dd").all_inner_texts())
    assert before != after
    assert "m, the mean of gradients" in page.locator(".number-panel").inner_text()


def test_a_document_of_ones_own(visit: Visit) -> None:
    page = visit(WALK, expected=("422",))
    page.locator("#step-title:visible").wait_for()
    document = page.get_by_label("Document")
    document.fill("mia")
    document.press("Enter")
    page.get_by_role("radio", name="m → i").wait_for()
    assert page.locator(".tokens button").count() == 4
    page.get_by_role("radio", name="i → a").click()
    assert page.locator("tr.here th").first.inner_text() == "i"
    document.fill("Ω")
    document.press("Enter")
    page.locator(".error", has_text="text:").wait_for()
    assert page.locator(".tokens button").count() == 4, "the step before stays"


def test_another_checkpoint_keeps_the_place(visit: Visit) -> None:
    page = visit(WALK)
    page.locator("#step-title:visible").wait_for()
    page.get_by_label("Document").fill("mia")
    page.get_by_role("button", name="Take this step").click()
    page.get_by_role("radio", name="m → i").wait_for()
    page.locator(".where select").select_option(label="layer 0: query")
    value = page.locator(".number-panel dd").first
    before = value.inner_text()
    page.evaluate("address => { location.hash = address }", WALK.replace("40", "60"))
    page.get_by_text("Step 61 of 100").wait_for()
    assert "layer 0, query" in page.locator("#step-title").inner_text()
    assert page.get_by_label("Document").input_value() == "mia"
    assert page.locator(".number-panel h2 .mono").inner_text() == "layer0.query[2][0]"
    assert value.inner_text() != before


def test_by_keyboard_alone(visit: Visit) -> None:
    page = visit(WALK)
    title = page.locator("#step-title")
    title.wait_for()
    page.locator(".controls button").first.focus()
    for key, expected in {
        "n": "position embedding",
        "l": "layer 0, norm",
        "b": "back through loss",
        "u": "new wte",
    }.items():
        page.keyboard.press(key)
        assert expected in title.inner_text()
    page.keyboard.press("f")
    grid = page.get_by_role("grid").first
    grid.locator("td[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator(".number-panel h2 .mono").inner_text() == "token[3][1]"
    assert page.evaluate("document.activeElement.className").startswith("chosen")
    way = page.locator(".number-panel button").first  # to another number: the focus stays in the panel
    way.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.classList.contains('number-panel')")
    page.get_by_label("Document").focus()
    page.keyboard.press("b")
    assert "token embedding" in title.inner_text(), "a letter that is typed is no key of the walk"


def test_side_by_side(visit: Visit) -> None:
    page = visit(WALK)
    page.locator(".where select").select_option(label="loss")
    panel = page.locator(".differ")
    panel.locator("summary").click()
    models, engines = panel.locator("form").nth(0), panel.locator("form").nth(1)
    models.get_by_label("Model").select_option("names@40")
    models.get_by_label("Beside").select_option("names@60")
    models.get_by_role("button").click()
    panel.get_by_text("The first number that differs").wait_for()
    assert "wte[0][0]" in panel.inner_text()
    engines.get_by_label("Implementation").select_option(label="scalar, float64")
    engines.get_by_label("Beside").select_option(label="manual, float32")
    engines.get_by_role("button").click()
    panel.get_by_text("in the order of the computation").wait_for()
    assert "logits[0][0]" in panel.inner_text()
    axe(page)


def test_markup_in_a_text_stays_text(visit: Visit, options_server: Server) -> None:
    page = visit("#/step/options?at=2", url=options_server.url)
    page.locator("#step-title:visible").wait_for()
    page.get_by_label("Document").fill("<b>&")
    page.get_by_role("button", name="Take this step").click()
    page.get_by_role("radio", name="b → >").wait_for()
    assert page.locator("main b").count() == 0


def test_widths_and_colours(visit: Visit) -> None:
    page = visit(WALK)
    page.locator("#step-title").wait_for()
    page.locator(".differ summary").click()
    page.locator(".where select").select_option(label="layer 0: attention weights")
    everywhere(page)
    for button in ("Adam", "Backward"):
        page.locator(".controls button", has_text=button).click()
        everywhere(page, "main")


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("×", ""))
