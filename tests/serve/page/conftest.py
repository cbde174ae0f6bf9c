"""The page in Chromium, all other network blocked: a browser per file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serve.running import Server

NAMES, TALK, BYTES = "names", "talk", "bytes"  # the runs of page_server
WIDTHS = (360, 800, 1400)
WIDTH, SCHEME = int(os.environ.get("PAGE_WIDTH", 1400)), os.environ.get("PAGE_SCHEME", "light")  # see long_form.py
KEYS = "PAGE_KEYS" in os.environ  # whatever is clicked gets the focus and a key instead
Visit = Callable[..., Any]


@pytest.fixture(autouse=True)
def by_keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """With KEYS the tests that click prove that the keyboard does."""
    if not KEYS:
        return
    from playwright.sync_api import Locator

    def press(self: Any, **_: Any) -> None:
        self.wait_for()
        self.evaluate("e => (e.closest('a, button, input, select, textarea, summary, [tabindex]') ?? e).focus()")
        box = self.evaluate("e => e.matches('input[type=checkbox], input[type=radio]')")
        self.page.keyboard.press("Space" if box else "Enter")

    for name in ("click", "check", "uncheck"):
        monkeypatch.setattr(Locator, name, press)


@pytest.fixture
def visit(browser: Any, page_server: Server) -> Iterator[Visit]:
    """Open an address of the page: `visit("#/play/names", width=360, dark=True)`; `url` is that of another server.

    Whatever the page says on the console, throws, or asks of any other host fails the test; `expected` are parts of
    lines of the console that may be, such as the status of a request that the test has refused.
    """
    noise: list[str] = []
    contexts = []

    def go(
        path: str = "",
        *,
        width: int = WIDTH,
        dark: bool = SCHEME == "dark",
        url: str | None = None,
        expected: tuple[str, ...] = (),
        **options: Any,
    ) -> Any:
        root = (url or page_server.url).rstrip("/")
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            **options,
        )
        contexts.append(context)

        def heard(text: str) -> None:
            if not any(part in text for part in expected):
                noise.append(text)

        def route(request: Any) -> None:
            if request.request.url.startswith((root + "/", "data:", "blob:")):
                request.continue_()
            else:
                noise.append(f"asked for {request.request.url}")
                request.abort()

        context.route("**/*", route)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: heard(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard(f"pageerror: {error}"))
        page.goto(f"{root}/{path}")
        page.locator("main[class]").wait_for()
        return page

    yield go
    for context in contexts:
        context.unroute_all(behavior="ignoreErrors")  # a request that ends with its page was handled already
        context.close()
    assert noise == []


def axe(page: Any, within: str | None = None, contrast: bool | None = None) -> None:
    """Hold the page, or the part that a selector names, against all rules of axe-core, which is loaded once.

    `contrast` may leave out the rule on the contrast of colours (False), or all others (True).
    """
    from axe_playwright_python.sync_playwright import Axe

    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if contrast:
        options["runOnly"] = ["color-contrast"]
    elif contrast is False:
        options["rules"] = {"color-contrast": {"enabled": False}}
    run = "([within, options]) => axe.run(within ?? document, options)"
    found = page.evaluate(run, [within, options])["violations"]
    told = [f"{rule['id']} ({rule['impact']}): {node['html'][:200]}" for rule in found for node in rule["nodes"]]
    assert told == []


def fits(page: Any) -> None:
    """The page does not scroll sideways."""
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def everywhere(page: Any, within: str | None = None) -> None:
    """Hold a page, or a part of it, against axe and its width at all sizes, in light and dark.

    The schemes differ in colours alone, and no rule of the style sheets gives another colour at another width, so the
    contrast, which takes ten times as long as all other rules, is measured once per scheme.
    """
    for width in reversed(WIDTHS):
        page.set_viewport_size({"width": width, "height": 800})
        fits(page)
        axe(page, within, contrast=False)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        axe(page, within, contrast=True)
