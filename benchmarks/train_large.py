"""Proof: a model is trained on text larger than memory should be, within a stated peak of memory per process.

    python benchmarks/train_large.py [--megabytes 2000] [--limit 1000] [--folder DIR]

Writes lines of made-up words, tokenizes them into shards with a BPE learnt from a sample, trains 200 steps on them with
evaluations, and prints seconds and the peaks of memory, also of the processes that a command starts. Fails above
--limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.tokenise_large import write

CHILD = """
import resource, sys
from microgpt.cli import main
from microgpt.training.bench import peak_rss_mb
status = main(sys.argv[1:])
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print("peak", round(peak_rss_mb()), round(children))
sys.exit(status)
"""


def run(folder: Path, *words: str) -> tuple[float, float]:
    """The peaks of a command in MiB: its own, and the largest of the processes that it started."""
    start = time.perf_counter()
    environment = {**os.environ, "MICROGPT_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-c", CHILD, *words], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: status {done.returncode}")
    own, child = map(float, done.stdout.split()[-2:])
    print(
        f"{words[0]} {time.perf_counter() - start:.0f} s, peak {own:.0f} MiB, per process {child:.0f} MiB", flush=True
    )
    return own, child


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=1000, help="MiB, of a command and its processes together")
    parser.add_argument("--folder", type=Path, help="place for text and tokens (default: a temporary folder)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        text, tokens = str(folder / "text.txt"), str(folder / "tokens")
        write(folder / "text.txt", asked.megabytes)
        reading = ("--tokenizer", "bpe", "--vocab-size", "4096", "--tokenizer-sample", "20MB", "--packing", "joined")
        cores = len(os.sched_getaffinity(0))
        own, child = run(folder, "data", "tokenize", text, *reading, "--out", tokens)
        peaks = [own + cores * child]
        size = ("--size", "micro", "--steps", "200", "--val-fraction", "0.0001", "--eval-every", "100")
        own, child = run(folder, "train", tokens, *size, "--samples", "2", "--out", str(folder / "run"))
        peaks.append(own)
        print(f"{asked.megabytes} MB: at most {max(peaks):.0f} MiB in all, limit {asked.limit}")
        return int(max(peaks) > asked.limit)


if __name__ == "__main__":
    sys.exit(main())
