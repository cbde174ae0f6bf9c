"""Bring the line numbers in docs/model.md up to date: `python docs/refresh.py`. A test holds that they are.

A link is written [`name`](path#L12) and belongs to the line of `def name` in that file.
"""

from __future__ import annotations

import re
from pathlib import Path

MODEL = Path(__file__).with_name("model.md")
LINK = re.compile(r"\[`(\w+)`\]\(([\w./]+\.py)#L\d+\)")


def refreshed(text: str) -> str:
    """The text with every link at its function's line. Raises ValueError for a function that is gone."""

    def link(match: re.Match[str]) -> str:
        name, path = match.groups()
        lines = (MODEL.parent / path).read_text(encoding="utf-8").splitlines()
        at = next((i for i, line in enumerate(lines, 1) if line.startswith(f"def {name}(")), None)
        if at is None:
            raise ValueError(f"docs/model.md: {path} has no function {name}")
        return f"[`{name}`]({path}#L{at})"

    return LINK.sub(link, text)


if __name__ == "__main__":
    MODEL.write_text(refreshed(MODEL.read_text(encoding="utf-8")), encoding="utf-8")
