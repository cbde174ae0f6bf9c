"""Bring the line numbers in the pages of docs/ up to date: `python docs/refresh.py`. A test holds that they are.

A link is written [`code`](path.py#L12) and belongs to the line of `def code` in that file, or else to the only line
that has this code.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = [DOCS / name for name in ("model.md", "lesson.md", "ladder.md")]
LINK = re.compile(r"\[`([^`]+)`\]\(([\w./]+\.py)#L\d+\)")


def line_of(code: str, path: str) -> int:
    """The number of the line that a link with this code belongs to. Raises ValueError if there is not one."""
    lines = (DOCS / path).read_text(encoding="utf-8").splitlines()
    found = [i for i, line in enumerate(lines, 1) if line.startswith(f"def {code}(")]
    found = found or [i for i, line in enumerate(lines, 1) if code in line]
    if len(found) != 1:
        raise ValueError(f"{path} has {len(found)} lines with {code!r}, expected one")
    return found[0]


def refreshed(text: str) -> str:
    """The text with every link at its line."""
    return LINK.sub(lambda m: f"[`{m[1]}`]({m[2]}#L{line_of(m[1], m[2])})", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
