"""The best figures of each kind of machine, from the history in docs/records: `python -m benchmarks.records`.

It rewrites benchmarks/RECORDS.md. A kind of machine is a CPU by LLVM's name, and a file of docs/records: runs, each
under a heading with its date and commit. Runs by hand have other columns; those named here are read.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.common import ROOT

HISTORY = ROOT / "docs" / "records"
RECORDS = Path(__file__).with_name("RECORDS.md")
COLUMNS = ("work", "against", "ours", "theirs", "value", "target", "met")
COMMIT = re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7}\b")
NUMBER = re.compile(r"-?[\d,]*\.?\d+")
LOWER = ("ms", "s", "µs/step", "power")  # units of a value whose lower figure is better, where there is no target
BEGIN = "<!-- best figures, by benchmarks/records.py -->\n"
END = "<!-- end of best figures -->\n"


def runs(text: str) -> list[tuple[str, str, list[dict[str, str]]]]:
    """Date, commit and rows of every run in a history that has rows with a work and a value."""
    found = []
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        date, commit = section[:10], COMMIT.search(section)
        header: list[str] = []
        rows = []
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not line.startswith("|"):
                header = []
            elif not header:
                header = cells
            elif {"work", "value"} <= set(header) and not set(line) <= set("|- "):
                rows.append(dict(zip(header, cells, strict=True)))
        if rows and commit:
            found.append((date, commit[0], rows))
    return found


def key(row: dict[str, str]) -> tuple[str, str]:
    """Rows that may be compared: the same work, under its present name, against a peer, or against the same thing."""
    work = re.sub(r"\b(steps?|documents?|\d+|time) a (step|token)\b", r"\1 per \2", row["work"])
    against = row["against"]
    return work, "framework" if against.startswith(("JAX", "PyTorch")) and row["value"].endswith("×") else (
        against if row["value"].endswith(("×", "%")) else "value"
    )


def value(row: dict[str, str]) -> float:
    """The figure, negative where a lower one is better."""
    found = NUMBER.search(row["value"])
    if found is None:
        return float("-inf")
    number = float(found[0].replace(",", ""))
    unit = row["value"].split()[-1]
    lower = row["target"].startswith("≤") or (not row["target"].startswith("≥") and unit in LOWER)
    return -number if lower else number


def best(text: str) -> str:
    """The table of a history: for each work its best value, with date and commit."""
    top: dict[tuple[str, str], tuple[dict[str, str], str]] = {}
    for date, commit, rows in runs(text):
        for row in rows:
            if (k := key(row)) not in top or value(row) > value(top[k][0]):
                top[k] = row | {"work": k[0], "unit": row.get("unit", "")}, f"{date}, {commit}"
    head = (*COLUMNS, "when")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row, when in top.values():
        unit = f" {row['unit']}" if row["unit"] and row["ours"] not in ("", "-") else ""
        shown = row | {"ours": row["ours"] + unit}
        lines.append("| " + " | ".join([*(shown[name] for name in COLUMNS), when]) + " |")
    return "\n".join(lines) + "\n"


def summary(folder: Path = HISTORY) -> str:
    """The tables of all kinds of machine."""
    parts = []
    for path in sorted(folder.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ")
        parts.append(
            f"## {title}\n\nAll runs: [docs/records/{path.name}](../docs/records/{path.name}).\n\n{best(text)}"
        )
    return "\n".join(parts)


def refreshed(text: str, folder: Path = HISTORY) -> str:
    """RECORDS.md with the tables as they are to be."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{summary(folder)}\n{END}{rest.split(END)[1]}"


def refresh() -> None:
    """Bring RECORDS.md up to date."""
    from microgpt import files

    files.write_atomic(RECORDS, refreshed(RECORDS.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    refresh()
