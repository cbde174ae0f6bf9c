"""Proof: a model is trained on text larger than memory should be, within a stated peak of memory of all processes.

    python benchmarks/train_large.py [--megabytes 2000] [--limit 1000] [--folder DIR]

Writes lines of made-up words, tokenizes them into shards with a BPE learnt from a sample, trains 2000 steps on them
with evaluations, once undisturbed and once killed and resumed, which must give the same weights. Prints seconds and the
peak of memory: the proportional set sizes of a command and of the processes that it started, added up five times per
second (Linux alone tells them). Pages of mapped files that are in memory count. Fails above --limit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.tokenise_large import write

INTERVAL = 0.2  # seconds between two readings of the memory
STEPS = 2000


def family(process: int) -> list[int]:
    """A process and all that it started, and they started."""
    found = [process]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def memory(process: int) -> float:
    """The proportional set size of a process and all that it started, in MiB; 0 once it has ended."""
    size = 0
    try:
        for one in family(process):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            size += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    except (OSError, StopIteration):  # one of them ended meanwhile
        return 0.0
    return size / 1024


def run(folder: Path, *words: str, kill: Callable[[], bool] = lambda: False) -> float:
    """The peak of a command's memory in MiB. It is killed once `kill` says so."""
    start, peak = time.perf_counter(), 0.0
    environment = {**os.environ, "MICROGPT_CACHE_DIR": str(folder / "cache")}
    process = subprocess.Popen([sys.executable, "-m", "microgpt", *words], env=environment)
    try:
        while process.poll() is None and not kill():
            peak = max(peak, memory(process.pid))
            time.sleep(INTERVAL)
    finally:
        killed = process.poll() is None
        process.kill()
        status = process.wait()
    if status not in (0, -signal.SIGKILL if killed else 0):
        sys.exit(f"{' '.join(words)}: status {status}")
    done = "killed after" if killed else "took"
    print(f"{words[0]} {done} {time.perf_counter() - start:.0f} s, peak {peak:.0f} MiB", flush=True)
    return peak


def weights(folder: Path) -> str:
    """The SHA-256 of the weights after the last step."""
    return hashlib.sha256((folder / f"checkpoints/step-{STEPS:08}/model.safetensors").read_bytes()).hexdigest()


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
        peaks = [run(folder, "data", "tokenize", text, *reading, "--out", tokens)]
        size: tuple[str, ...] = (
            "--size",
            "micro",
            "--steps",
            str(STEPS),
            "--val-fraction",
            "0.0001",
            "--eval-every",
            "500",
        )
        size += ("--save-every", "500", "--samples", "2")
        whole, killed = folder / "whole", folder / "killed"
        peaks.append(run(folder, "train", tokens, *size, "--out", str(whole)))
        saved = killed / "checkpoints/step-00000500"
        peaks.append(run(folder, "train", tokens, *size, "--out", str(killed), kill=saved.exists))
        peaks.append(run(folder, "train", "--resume", "--out", str(killed)))
        same = weights(whole) == weights(killed)
        said = "the same weights" if same else "OTHER WEIGHTS"
        print(f"{asked.megabytes} MB: at most {max(peaks):.0f} MiB in all, limit {asked.limit}; {said} after the kill")
        return int(max(peaks) > asked.limit or not same)


if __name__ == "__main__":
    sys.exit(main())
