"""Proof: text larger than memory should be is tokenised within a stated peak of memory, once.

    python benchmarks/tokenise_large.py [--megabytes 1000] [--tokenizer char] [--format lines] [--limit 1000]

Writes random lines of words to a temporary folder, tokenises them in a process of its own, then once more from
the cache, draws steps from it, and prints seconds and the peak of memory. Fails above --limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

CHILD = """
import sys, time
from random import Random
from microgpt.config import Data
from microgpt.data.load import load
from microgpt.training.bench import peak_rss_mb
path, tokenizer, format = sys.argv[1:]
data = Data(path=path, tokenizer=tokenizer, format=format)
start = time.perf_counter()
spent = {}
def progress(message, seconds):
    spent[message.partition(":")[0]] = time.perf_counter() - start
text = load(data, 128, progress=progress)
loaded = time.perf_counter() - start
corpus = text.split(Random(42), val_fraction=0.01)
for step in range(1000):
    corpus.feed(step, 1, 8, 128)
whole = time.perf_counter() - start
peak = peak_rss_mb()
parts = ", ".join(f"{what} until {seconds:.1f}" for what, seconds in spent.items())
print(f"{loaded:.1f} s to load ({parts}), {whole:.1f} s with order and 1000 steps, "
      f"{len(corpus.tokens):,} tokens, {corpus.n_documents:,} documents, peak", round(peak))
"""


def write(path: Path, megabytes: int) -> None:
    """Lines of made-up words, all different."""
    rng = Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randrange(2, 9))) for _ in range(5000)]
    with open(path, "w", encoding="utf-8") as file:
        size = 0
        while size < megabytes * 1_000_000:
            size += file.write("\n".join(" ".join(rng.choices(words, k=12)) for _ in range(10_000)) + "\n")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tokenizer", default="char")
    parser.add_argument("--format", default="lines")
    parser.add_argument("--limit", type=int, default=1000, help="MiB")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        write(path, asked.megabytes)
        environment = {**os.environ, "MICROGPT_CACHE_DIR": folder}
        for what in ("first", "again"):
            command = [sys.executable, "-c", CHILD, str(path), asked.tokenizer, asked.format]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            print(
                f"{what}: {asked.megabytes} MB, {asked.tokenizer}: {said.stdout.strip()} MiB{said.stderr}", flush=True
            )
            if said.returncode or float(said.stdout.split()[-1]) > asked.limit:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
