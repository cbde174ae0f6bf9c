"""The time scrubber in the bar: kept checkpoints as marks, by keyboard, in the address."""

from __future__ import annotations

from typing import Any

from tests.serve.page.conftest import NAMES, TALK, Visit, axe


def test_the_scrubber_goes_through_the_checkpoints(visit: Visit) -> None:
    page = visit(f"#/inside/{NAMES}")
    slider = page.get_by_label("Checkpoint", exact=True)
    assert page.locator("#scrubber .marks i").count() == 5
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_url(f"**/#/inside/{NAMES}?at=20")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/#/inside/{NAMES}?at=40")
    page.wait_for_function("() => document.querySelector('#at').getAttribute('aria-valuetext').startsWith('step 40')")
    assert page.evaluate("document.activeElement.id") == "at", "the focus stays on the slider"
    for link in page.get_by_role("navigation").get_by_role("link").all():
        assert link.get_attribute("href").endswith("?at=40"), "the other views open the same checkpoint"
    axe(page)
    page.get_by_role("button", name="Default checkpoint").press("Enter")
    page.wait_for_url(f"**/#/inside/{NAMES}")
    assert page.evaluate("document.activeElement.id") == "at"


def test_an_address_opens_its_checkpoint_and_one_checkpoint_has_no_scrubber(visit: Visit) -> None:
    page = visit(f"#/play/{NAMES}?at=60")
    assert page.get_by_label("Checkpoint", exact=True).input_value() == "2"
    page.get_by_label("Run").select_option(TALK)
    page.wait_for_url(f"**/#/play/{TALK}")
    page.wait_for_function("() => document.querySelector('#scrubber').children.length === 0")


def test_new_checkpoints_of_a_training_come_to_the_scrubber(visit: Visit) -> None:
    page = visit("#/step/")
    asked: list[str] = []

    def answer(route: Any) -> None:
        """The run as if it were being trained, with a checkpoint more each time."""
        found = route.fetch().json()
        found["runs"][0]["state"] = "running"
        found["runs"][0]["checkpoints"] = found["runs"][0]["checkpoints"][: 2 + len(asked)]
        asked.append(route.request.url)
        route.fulfill(json=found)

    page.route("**/api/runs", answer)
    page.get_by_role("link", name="Look inside").click()
    page.locator("#scrubber .marks i").nth(1).wait_for(state="attached")
    page.get_by_label("Checkpoint", exact=True).press("Home")
    page.locator("#scrubber .marks i").nth(3).wait_for(state="attached")
    assert page.get_by_label("Checkpoint", exact=True).input_value() == "0"
    assert page.evaluate("() => document.activeElement.id") == "at"
    page.unroute_all(behavior="ignoreErrors")
