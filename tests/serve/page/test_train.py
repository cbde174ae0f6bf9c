"""Trainings from the page: a text that is dropped, the plan, the start, the stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.page.conftest import Visit, axe, fits
from tests.serve.running import Server, serving

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a folder in which there is no run yet."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "runs").mkdir()
    with serving(folder / "runs", log=folder / "log") as server:
        yield server


def test_a_text_is_trained_on_and_watched(empty: Server, visit: Visit, tmp_path: Path) -> None:
    text = tmp_path / "girls & boys.txt"
    text.write_text("emma\nolivia\nnoah\nliam\n" * 20, encoding="utf-8")
    page = visit("#/watch/", url=empty.url, width=360, expected=("400",))
    page.get_by_label("Text file").set_input_files(text)
    name, typed = page.get_by_label("Name of the run"), page.get_by_label("Text", exact=True)
    expect(name).to_have_value("girls-boys", timeout=60_000)
    name.fill("")
    typed.fill("")
    dropped = page.evaluate_handle(
        """([name, text]) => {
        const held = new DataTransfer();
        held.items.add(new File([text], name));
        return held;
    }""",
        [text.name, text.read_text(encoding="utf-8")],
    )
    typed.dispatch_event("drop", {"dataTransfer": dropped})
    expect(name).to_have_value("girls-boys", timeout=60_000)
    page.get_by_label("Size").select_option("mini")  # a smaller model writes hundreds of thousands of steps per second
    page.get_by_label("Steps").fill("2000000000")
    page.get_by_role("button", name="Plan").click()
    page.get_by_text("80 documents, 8 of them held out").wait_for()
    fits(page)
    axe(page)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/#/watch/girls-boys", timeout=90_000)
    stop, resume = (page.get_by_role("button", name=name) for name in ("Stop and save", "Resume"))
    stop.click(timeout=60_000)
    resume.click(timeout=60_000)
    stop.click(timeout=60_000)
    resume.wait_for(timeout=60_000)
    page.set_viewport_size({"width": 1400, "height": 800})
    page.get_by_text("Train a model").click()
    page.get_by_label("Scenario").select_option("names")
    page.get_by_label("Name of the run").fill("no/name")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("name: expected up to 64 letters").wait_for()
    fits(page)
    axe(page)
    expect(page.get_by_text("Train a model")).to_be_visible()
    page.route("**/api/runs", lambda route: route.fulfill(json=route.fetch().json() | {"may_train": False}))
    page.reload()  # as a page of a service that may be reached from elsewhere, without a key
    page.locator("main.watch").wait_for()
    page.get_by_role("heading", name="girls-boys").first.wait_for(timeout=60_000)
    expect(page.get_by_text("Train a model")).to_be_hidden()
    page.unroute_all(behavior="ignoreErrors")
