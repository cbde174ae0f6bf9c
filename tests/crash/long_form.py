"""The long form of tests/crash, in minutes instead of seconds: `make crash`. Prints the figures of docs/crash.md."""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from microgpt.cli import main
from tests.crash.conftest import make_folder
from tests.crash.runs import end_state, finish, go_on, kill_after, new, spawn, wait, write_data

STRACED = ["fsync", "rename", "mkdir", "unlink", "unlinkat", "rmdir", "flock", "write"]


def report(work: Callable[[], str], title: str) -> None:
    """Work with stdout and stderr shut, then print the result."""
    kept, start = sys.stdout, time.perf_counter()
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        sys.stdout = sys.stderr = nothing
        try:
            result = work()
        finally:
            sys.stdout, sys.stderr = kept, sys.__stderr__
    print(f"{title:24} {result}, in {time.perf_counter() - start:.0f} s", flush=True)


class Long:
    """One uninterrupted run, and the many ways to disturb it."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.folder, self.log = folder, folder / "log"
        self.data = write_data(folder)
        short = {"steps": 6, "checkpoint_every": 1, "eval_every": 3, "batch_size": 1}
        self.flags: dict[str, object] = {"engine": engine, **(short if engine == "scalar" else {})}
        main(self.start(folder / "warm"))
        begin = time.perf_counter()
        main(self.start(folder / "whole"))
        self.seconds = time.perf_counter() - begin
        self.end = end_state(folder / "whole")

    def start(self, out: Path) -> list[str]:
        return new(self.data, out, **self.flags)

    def check(self, start: list[str], out: Path) -> None:
        """The disturbed run must end as the undisturbed one; the stop itself may have left a checkpoint more."""
        end = finish(start, out)
        for what in ("tensors", "metrics"):
            if end[what] != self.end[what]:
                sys.exit(f"{out}: {what} differ")
        shutil.rmtree(out)

    def kills(self, count: int) -> str:
        rng, died = random.Random(1), 0
        for _ in range(count):
            out = self.folder / "run"
            start = self.start(out)
            died += kill_after(spawn(start, self.log), rng.uniform(0, self.seconds)) == -signal.SIGKILL
            self.check(start, out)
        return f"{count} runs, {died} killed before their end, {count} of {count} identical"

    def chain(self, count: int) -> str:
        rng, out, killed = random.Random(2), self.folder / "run", 0
        start = self.start(out)
        while killed < count:
            ended = kill_after(spawn(go_on(start, out), self.log), rng.uniform(0, self.seconds / 4))
            if ended == 0:  # it got to its end between two kills
                self.check(start, out)
            killed += ended != 0
        self.check(start, out)
        return f"{killed} kills, one run after the other killed again and again, identical"

    def signals(self, count: int) -> str:
        rng, waits, stopped = random.Random(3), [], 0
        for n in range(count):
            number, out = (signal.SIGINT, signal.SIGTERM)[n % 2], self.folder / "run"
            start = self.start(out)
            pid = spawn(start, self.log)
            time.sleep(rng.uniform(0, self.seconds))
            sent = time.perf_counter()
            os.kill(pid, number)
            status = wait(pid)
            waits.append(time.perf_counter() - sent)
            if status not in (0, 128 + number):
                sys.exit(f"status {status}")
            stopped += status != 0
            self.check(start, out)
        return (
            f"{count} signals, {stopped} before the end, all with 130/143 and identical; "
            f"answered in {1000 * statistics.median(waits):.0f} ms (median), {1000 * max(waits):.0f} ms (longest)"
        )

    def races(self, count: int) -> str:
        for _ in range(count):
            out = self.folder / "run"
            both = [spawn(self.start(out), self.folder / f"log{i}") for i in range(2)]
            if sorted(wait(pid) for pid in both) not in ([0, 2], [0, 5]):
                sys.exit("two trainers in a folder")
            self.check([], out)
        return f"{count} of {count} with one trainer"

    def strace(self) -> str:
        """SIGKILL by the kernel at every system call of a resumed save, from the outside."""
        if not shutil.which("strace"):
            return "skipped: there is no strace"
        points = 0
        main([*self.start(self.folder / "half"), "--stop-at", "4"])
        for call in STRACED:
            for when in range(1, 10_000):
                out = self.folder / "run"
                shutil.copytree(self.folder / "half", out)
                words = [sys.executable, "-m", "microgpt", *go_on([], out), "--stop-at", "5"]
                inject = ["strace", "-o", os.devnull, "-e", f"inject={call}:signal=SIGKILL:when={when}"]
                done = subprocess.run([*inject, *words], capture_output=True)
                self.check([], out)
                if done.returncode == 0:
                    break
                points += 1
        return f"{points} system calls, each killed at, all identical"


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--engine", default="manual")
    given = parser.parse_args()
    folder, n = make_folder(), given.kills
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    try:
        kept = sys.stdout, sys.stderr
        with open(os.devnull, "w", encoding="utf-8") as nothing:
            sys.stdout = sys.stderr = nothing
            long = Long(folder, given.engine)
            sys.stdout, sys.stderr = kept
        report(lambda: long.kills(n), "kill -9 at random")
        report(lambda: long.chain(n // 10), "kill -9 in a chain")
        report(lambda: long.signals(n * 3 // 10), "SIGINT and SIGTERM")
        report(lambda: long.races(n // 10), "two trainers at once")
        report(long.strace, "SIGKILL by strace")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    run()
