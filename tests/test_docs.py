"""The documents hold: line numbers, links, and what README says of code and files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import refresh  # noqa: E402

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_line_numbers_are_those_of_the_functions() -> None:
    text = refresh.MODEL.read_text(encoding="utf-8")
    assert len(refresh.LINK.findall(text)) > 25
    assert refresh.refreshed(text) == text, "run python docs/refresh.py"
    moved = text.replace("#L", "#L9")
    assert refresh.refreshed(moved) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
