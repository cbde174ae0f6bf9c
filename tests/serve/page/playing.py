"""Hands on Play: generate a text, ask a chat, wait for the end."""

from __future__ import annotations

from typing import Any


def setting(page: Any, label: str) -> Any:
    """The field of a setting, which are folded up where a page has little room."""
    page.locator("details.controls").wait_for()
    if page.locator("details.controls:not([open])").count():
        page.locator("details.controls > summary").click()
    return page.locator(f'.controls input[aria-label^="{label}:"]')


def generate(page: Any, prompt: str, **settings: str) -> str:
    """Generate from a prompt, and wait for the end."""
    for label, value in settings.items():
        setting(page, label.replace("_", " ")).fill(value)
    page.get_by_label("Begin a text").fill(prompt)
    page.get_by_role("button", name="Generate", exact=True).click()
    return wait(page)


def ask(page: Any, message: str) -> str:
    """Send a message, and wait for the end of its answer."""
    page.get_by_label("Message", exact=True).fill(message)
    page.get_by_label("Message", exact=True).press("Enter")
    return wait(page)


def wait(page: Any) -> str:
    """The text that was generated, when it has ended."""
    page.wait_for_function(
        """() => {
        const status = document.querySelector('.status');
        return status.ariaBusy === 'false' && /seed \\d+: (?!being)/.test(status.textContent);
    }"""
    )
    return shown(page)


def shown(page: Any) -> str:
    """The text of the tokens that were drawn."""
    return "".join(page.locator(".text .drawn:not(.ending):not(.cut):not(.partial)").all_text_contents())


def text_of(answer: Any) -> str:
    """The text of a completion."""
    return str(answer["choices"][0]["text"])
