"""The figures that `microgpt train TEXT` reaches with its own choices, beside their targets.

python -m benchmarks.recipes.show             all, about 40 minutes; MICROGPT_DATA_DIR names the folder of the texts
python -m benchmarks.recipes.show alice       some
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import describe, machine
from microgpt.data.datasets import data_folders


class Figure(NamedTuple):
    """A text, the time, and the target: bits per byte, or nats per character where `characters` are held out."""

    text: str
    minutes: float
    target: float
    flags: tuple[str, ...] = ()
    characters: int = 0  # of the held-out part with the line ends between its documents


FIGURES = {
    "alice": Figure("alice.txt", 2, 1.96),
    "shakespeare": Figure("tinyshakespeare.txt", 10, 1.82),
    "shakespeare-end": Figure("tinyshakespeare.txt", 10, 1.45, ("--val-split", "end"), 111_540),
    "enneads": Figure("enneads.txt", 5, 1.62),
    "chat": Figure("chat_oasst1.jsonl", 10, 1.90, ("--samples", "10")),
}


def microgpt(*words: str) -> str:
    """The standard output of a command; its progress goes to our stderr."""
    command = [sys.executable, "-m", "microgpt", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def measured(name: str, figure: Figure, folder: Path) -> str:
    """Train, evaluate the checkpoint that the run's users get, and describe both in lines."""
    text = next((path for place in data_folders() if (path := place / figure.text).exists()), None)
    if text is None:
        return f"{name}: {figure.text} is not in a folder of MICROGPT_DATA_DIR"
    out, began = folder / name, time.monotonic()
    samples = microgpt("train", str(text), "--time", f"{figure.minutes:g}m", "--out", str(out), *figure.flags)
    spent = time.monotonic() - began
    found: dict[str, Any] = json.loads(microgpt("eval", str(out), "--samples", "0", "--json"))
    value, unit = found["bits_per_byte"], "bits per byte"
    if figure.characters:
        value = value * math.log(2) * found["bytes"] / figure.characters
        unit = f"nats per character ({found['bits_per_byte']:.3f} bits per byte of its documents)"
    met = "met" if value <= figure.target else "NOT MET"
    line = f"{name}: {value:.3f} {unit}, target {figure.target}: {met}; {spent:.0f} s of {figure.minutes * 60:.0f}"
    return f"{line}\n\n{samples}" if name == "chat" else line


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(FIGURES)}; all by default")
    asked = parser.parse_args().names or list(FIGURES)
    if unknown := set(asked) - set(FIGURES):
        parser.error(f"no figure is called {', '.join(sorted(unknown))}; there are: {', '.join(FIGURES)}")
    where = machine()
    print(f"{describe(where)}\ncommit {where['commit']}, {where['date']}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in asked:
            print(measured(name, FIGURES[name], Path(folder)), flush=True)


if __name__ == "__main__":
    main()
