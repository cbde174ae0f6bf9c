"""Project Gutenberg's books, and what it adds before and behind each: kept apart from all other text of a file."""

from __future__ import annotations

import re
from collections import Counter

BEGIN = re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK.*$", re.M | re.I)
END = re.compile(r"^\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG EBOOK|^End of (?:the )?Project Gutenberg", re.M)
HEADER = re.compile(r"^[^\w\n]*(?:The )?Project Gutenberg(?:['’]s| e-?(?:book|text))", re.M | re.I)  # its first line,
LICENSE_END = re.compile(r"\babout new eBooks\.[^\S\n]*$", re.M | re.I)  # and the end of the last one of a footer


def without_marks(text: str, tally: Counter[str]) -> str:
    """A file of books, one or several, without their headers and footers; all other text stays. Marks are counted.

    A header begins at its first line, else where the file does or the book before it ends. A footer ends with its
    license, else at the next header or with the file.
    """
    kept, at, marks = list[str](), 0, 0
    while at < len(text):
        begin, end = BEGIN.search(text, at), END.search(text, at)
        if begin and not (end and end.start() < begin.start()):
            header = HEADER.search(text, at, begin.start())
            kept.append(text[at : header.start() if header else at])
            at = begin.end()
        elif end:
            kept.append(text[at : end.start()])
            license_end = LICENSE_END.search(text, end.end(), begin.start() if begin else len(text))
            at = license_end.end() if license_end else begin.start() if begin else len(text)
        else:
            kept.append(text[at:])
            break
        marks += 1
    tally["Project Gutenberg headers and footers removed"] += marks
    tally["files without Project Gutenberg's marks"] += not marks
    return "\n\n".join(part for part in kept if part.strip())
