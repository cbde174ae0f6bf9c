"""The page's files and its frame: how they are sent, who gets them, and where an address leads."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from microgpt.serve import static
from tests.serve.page.conftest import NAMES, TALK, Visit
from tests.serve.running import Server, serving

KEY = "a-key-of-this-test"
SCRIPTS = sorted(static.FOLDER.rglob("*.js"))
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|srcdoc|DOMParser|\beval\b"
    r"|new Function|setHTMLUnsafe|set(?:Timeout|Interval)\(['\"`]|https?://(?!www\.w3\.org/2000/svg)"
)


def test_files_are_sent_with_their_type_policy_and_tag(page_server: Server) -> None:
    for path, media in {
        "/": "text/html",
        "/page/main.js": "text/javascript",
        "/page/all.css": "text/css",
    }.items():
        answer = page_server.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media)
        assert answer.headers["content-security-policy"] == static.POLICY
        assert answer.headers["cache-control"] == "no-cache"
        again = page_server.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/..%2fapp.py", "/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/page/no.js"],
)
def test_no_path_leaves_the_folder(page_server: Server, path: str) -> None:
    answer = page_server.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]


def test_every_file_is_linked_and_small() -> None:
    """Modules are found by imports from index.html on, style sheets are joined; each file holds one idea."""
    text = "".join(path.read_text(encoding="utf-8") for path in [*SCRIPTS, static.FOLDER / "index.html"])
    sheets = static.FILES["all.css"].data.decode()
    for path in static.FOLDER.rglob("*"):
        if path.is_file():
            content = path.read_text(encoding="utf-8")
            assert content.count("\n") <= 350, path
            linked = content in sheets if path.suffix == ".css" else path.name in text
            assert linked or path.name == "index.html", f"nothing names {path.name}"
    assert sheets.startswith((static.FOLDER / "page.css").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(static.FOLDER).as_posix())
def test_no_script_makes_markup_of_text(path: Path) -> None:
    assert MARKUP.findall(path.read_text(encoding="utf-8")) == []


def test_a_browser_is_asked_for_the_key(runs_folder: Path, tmp_path: Path) -> None:
    """Basic, with the key as the password, is taken as Bearer is; others are not asked for Basic."""
    with serving(runs_folder / NAMES, log=tmp_path / "log", MICROGPT_API_KEY=KEY) as server:
        page = server.client.get("/", headers={"Accept": "text/html,*/*"})
        assert page.status_code == 401
        assert page.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="microgpt", charset="UTF-8"']
        assert server.get("/").headers.get_list("www-authenticate") == ["Bearer"]

        def status(text: str) -> int:
            given = base64.b64encode(text.encode()).decode()
            return server.client.get("/", headers={"Authorization": f"Basic {given}"}).status_code

        assert status(f":{KEY}") == status(f"anybody:{KEY}") == 200
        for wrong in (KEY, f"{KEY}:", f":{KEY}x", f"a:b:{KEY}", ":"):
            assert status(wrong) == 401
        for bad in ("Basic", "Basic !", f"Basic :{KEY}", f"basic{KEY}"):
            assert server.client.get("/", headers={"Authorization": bad}).status_code == 401


def test_the_key_opens_the_page_in_a_browser(visit: Visit, runs_folder: Path, tmp_path: Path) -> None:
    """And the name of a run is text, whatever it is."""
    name = "</option></select><h1>owned</h1>, @5 %2F&lt;#?"
    others = ("--model", f"{name}={runs_folder / TALK}")
    with serving(runs_folder / NAMES, *others, log=tmp_path / "log", MICROGPT_API_KEY=KEY) as server:
        page = visit(url=server.url, http_credentials={"username": "", "password": KEY})
        picker = page.get_by_label("Run")
        assert picker.input_value() == NAMES
        picker.select_option(name)
        page.get_by_label("Message", exact=True).wait_for()
        assert page.locator("h1").all_text_contents() == [f"Play with {name}"]
        assert page.title() == f"Play · {name} · microgpt"
        page.reload()
        page.get_by_label("Message", exact=True).wait_for()
        assert picker.input_value() == name


def test_an_address_leads_to_its_view(visit: Visit) -> None:
    page = visit()
    links = page.get_by_role("navigation").get_by_role("link")
    for i, view in enumerate(("play", "watch", "inside", "step")):
        links.nth(i).click()
        page.locator(f"main.{view}").wait_for()
        assert links.nth(i).get_attribute("aria-current") == "page"
    picker: Any = page.get_by_label("Run")
    picker.select_option(TALK)
    page.wait_for_url(f"**/#/step/{TALK}")
    page.go_back()
    page.locator("main.step").wait_for()
    page.wait_for_function("name => document.querySelector('#run').value === name", arg=NAMES)
