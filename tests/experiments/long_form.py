"""The long form of tests/experiments: `make proof-sweep`. A sweep of 24 names trials with two workers, whose trials and
which itself are killed at random and started again, ends as an undisturbed one; and two sweeps share one study."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.crash.runs import end_state

SET = ["optim.learning_rate=log:1e-3..1e-1", "model.n_embd=8,16", "optim.beta2=range:0.9..0.999"]
FIXED = ["run.checkpoint_every=50", "run.eval_every=100", "run.samples=0", "data.val_fraction=0.1"]


def sweep(out: Path, trials: int, steps: int, *more: str) -> list[str]:
    """The words of the sweep."""
    keys = [*SET, *FIXED, f"run.steps={steps}"]
    words = ["names", "--sampler", "random", "--trials", str(trials), "--workers", "2", "--out", str(out), "--json"]
    return [sys.executable, "-m", "microgpt", "sweep", *words, "--set", *keys, *more]


def finish(words: list[str]) -> dict[str, Any]:
    """Run a sweep to its end."""
    done = subprocess.run(words, capture_output=True)
    if done.returncode:
        sys.exit(f"exit status {done.returncode}: {done.stderr.decode()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def children(out: Path) -> dict[int, str]:
    """The processes that train a trial of a sweep, each with its run folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and f"{out}/trials/".encode() in words[words.index(b"--out") + 1]:
            found[int(path.parent.name)] = words[words.index(b"--out") + 1].decode()
    return found


def disturb(words: list[str], out: Path, rng: random.Random, kills: int) -> tuple[int, int]:
    """Kill the sweep or one of its trials `kills` times; returns how often each was."""
    sweeps, killed = 0, Counter[str]()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sweeps + killed.total() < kills and process.poll() is None:
        own = children(out)
        if not own:  # it is still starting
            time.sleep(0.05)
            continue
        time.sleep(rng.uniform(0, 2))
        pid = rng.choice(list(own))
        if rng.random() < 0.6:
            if killed[own[pid]] < 2:  # the third time it would have failed
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed[own[pid]] += 1
        else:
            process.kill()
            process.wait()
            sweeps += 1
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process.terminate()
    process.wait()
    return sweeps, killed.total()


def ends(found: dict[str, Any]) -> dict[int, tuple[Any, ...]]:
    """How each trial ended, to the bit."""
    out = {}
    for row in found["trials"]:
        assert row["number"] not in out
        out[row["number"]] = row["state"], row["params"], row["value"], end_state(Path(row["path"]))
    return out


def main() -> None:
    """Run the proof, and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = ends(finish(sweep(folder / "whole", options.trials, options.steps)))
        print(f"undisturbed: {len(whole)} trials in {time.monotonic() - began:.0f} s", flush=True)
        words = sweep(folder / "killed", options.trials, options.steps)
        sweeps, trials = disturb(words, folder / "killed", random.Random(options.seed), options.kills)
        killed = ends(finish(words))
        assert sorted(killed) == list(range(options.trials))
        assert killed == whole, [number for number in whole if killed[number] != whole[number]]
        print(f"killed {sweeps} sweeps and {trials} trials: {len(killed)} trials, each once, to the bit", flush=True)
        shared = ["--storage", str(folder / "shared.journal")]
        both = [sweep(folder / name, options.trials, options.steps, *shared) for name in ("one", "two")]
        processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for words in both]
        for process in processes:
            process.communicate()
            assert process.returncode == 0
        held = [{path.stem for path in (folder / name / "trials").glob("*.toml")} for name in ("one", "two")]
        assert not held[0] & held[1]
        assert len(held[0] | held[1]) == options.trials
        for place, numbers in zip(("one", "two"), held, strict=True):
            for number in numbers:
                assert end_state(folder / place / "trials" / number) == whole[int(number)][3]
        print(f"two sweeps on one study: {len(held[0])} and {len(held[1])} trials, none doubled, to the bit")
    print(f"in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
