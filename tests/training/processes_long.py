"""The long form of test_processes.py: `make proof-processes`. Prints the figures of docs/scale.md.

Two, three and four processes; signals to the launcher and to each process; kills of each, and of the launcher; one that
is stopped; torchrun. Linux only, since it looks up processes in /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from microgpt.commands.launch import Launcher
from microgpt.runs import checkpoint
from microgpt.training.resume import resumed
from microgpt.training.train import train
from tests.training.test_processes import LIMIT, difference, lines, write_alone, write_texts

WITHIN_SIGNAL, WITHIN_KILL = 5.0, 10.0  # seconds to the end, as promised
slower = 1.0  # a factor of them
ENDLESS = "--engine pytorch --batch-size 8 --steps 1000000 --checkpoint-every 50 --samples 0".split()


def require(holds: object, sentence: str) -> None:
    if not holds:
        sys.exit(f"not so: {sentence}")


def equal(folder: Path, n: int) -> None:
    """All cases in n processes, and the end of a killed one."""
    began = time.perf_counter()
    status = Launcher(n, [sys.executable, "-m", "tests.training.together", str(folder)]).run()
    require(status == 137, f"{n} processes end with {status}, 137 expected")
    pairs = (("plain", "plain"), ("shard", "plain"), ("chats", "chats"), ("adapters", "adapters"), ("parts", "plain"))
    found = {ours: difference(folder / f"{ours}-{n}", folder / theirs) for ours, theirs in pairs}
    require(max(found.values()) < LIMIT, f"{n} processes: {found}")
    told = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    print(f"{n} processes against one: {told} ({time.perf_counter() - began:.0f} s)", flush=True)


def go_on(folder: Path, n: int) -> None:
    """A run of two, resumed by n."""
    run = folder / f"resumed-{n}"
    shutil.copytree(folder / "half-2", run)
    if n == 1:
        train(resumed(run, {}), run, resume=True)
    else:
        words = ["train", "--resume", "--out", str(run), "--processes", str(n)]
        require(subprocess.run([sys.executable, "-m", "microgpt", *words]).returncode == 0, f"resumed by {n}")
    found = difference(run, folder / ("plain-2" if n == 2 else "plain"))
    require(found < LIMIT and (n != 2 or found == 0), f"2 resumed by {n}: {found}")
    print(f"2 processes resumed by {n}: {found:.1e}", flush=True)


class Run:
    """A run of n processes that is in the middle of its steps."""

    def __init__(self, folder: Path, n: int, starter: list[str] | None = None, **variables: str) -> None:
        self.out, self.n = folder / "run", n
        shutil.rmtree(self.out, ignore_errors=True)
        words = ["train", str(folder / "names.txt"), "--out", str(self.out), *ENDLESS]
        start = [*starter, *words] if starter else [sys.executable, "-m", "microgpt", *words, "--processes", str(n)]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.launcher = subprocess.Popen(start, stderr=log, stdout=log, env={**os.environ, **variables})
        while not checkpoint.list_steps(self.out / "checkpoints"):
            require(self.launcher.poll() is None, self.log.read_text())
            time.sleep(0.1)
        self.ranks = self._ranks()
        require(len(self.ranks) == n, f"{len(self.ranks)} processes found")

    def _ranks(self) -> list[int]:
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                variables = (place / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            given = dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)
            if b"RANK" in given and str(self.out).encode() in (place / "cmdline").read_bytes():
                found[int(given[b"RANK"])] = int(place.name)
        return [found[rank] for rank in sorted(found)]

    def over(self, pids: list[int]) -> bool:
        def is_over(pid: int) -> bool:
            try:
                return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                return True

        return all(map(is_over, pids))

    def end(self, within: float) -> float:
        """Seconds until all are over."""
        began = time.monotonic()
        while not (self.launcher.poll() is not None and self.over(self.ranks)):
            if time.monotonic() - began > within * slower:
                for pid in [self.launcher.pid, *self.ranks]:
                    if not self.over([pid]):
                        os.kill(pid, signal.SIGKILL)
                sys.exit(f"not over within {within} s: {self.log.read_text()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def check(self, *, saved: bool) -> None:
        """The newest checkpoint is whole, and after a signal of the very last step."""
        newest = checkpoint.read(self.out, "last")
        newest.tensors()
        require(not saved or newest.step == lines(self.out)[-1]["step"], "the last step is saved")


def signals(folder: Path, n: int) -> str:
    longest = 0.0
    for number in (signal.SIGTERM, signal.SIGINT):
        for target in range(-1, n):
            run = Run(folder, n)
            os.kill(run.launcher.pid if target < 0 else run.ranks[target], number)
            longest = max(longest, run.end(WITHIN_SIGNAL))
            require(run.launcher.returncode == 128 + number, f"status {run.launcher.returncode}: {run.log.read_text()}")
            run.check(saved=True)
    return f"{2 * n + 2} signals, everything saved, at most {longest:.1f} s"


def kills(folder: Path, n: int) -> str:
    longest = 0.0
    for target in range(n):
        run = Run(folder, n)
        time.sleep(random.uniform(0, 1))
        os.kill(run.ranks[target], signal.SIGKILL)
        longest = max(longest, run.end(WITHIN_KILL))
        require(run.launcher.returncode == 137, f"status {run.launcher.returncode}: {run.log.read_text()}")
        said = [line for line in run.log.read_text().splitlines() if line.startswith("microgpt: ")]
        require(len(said) == 1 and f"process {target} of {n}" in said[0] and "SIGKILL" in said[0], str(said))
        run.check(saved=False)
    return f"each of {n} killed, one line that names it, at most {longest:.1f} s"


def orphans(folder: Path, n: int) -> str:
    run = Run(folder, n)
    os.kill(run.launcher.pid, signal.SIGKILL)
    seconds = run.end(WITHIN_KILL)
    run.check(saved=True)
    return f"none left and everything saved, {seconds:.1f} s"


def stopped(folder: Path, n: int) -> str:
    for target in range(n):
        run = Run(folder, n, MICROGPT_PROCESS_TIMEOUT="3")
        os.kill(run.ranks[target], signal.SIGSTOP)
        seconds = run.end(30)
        require(run.launcher.returncode not in (0, None), run.log.read_text())
        run.check(saved=False)
    return f"ends {seconds:.1f} s after a stop, with a timeout of 3 s: {run.log.read_text().splitlines()[-1][:100]}"


def torchrun(folder: Path, n: int) -> str:
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m", "microgpt"]
    run = Run(folder, n, starter)
    os.kill(run.launcher.pid, signal.SIGTERM)
    seconds = run.end(WITHIN_SIGNAL)
    run.check(saved=True)
    run = Run(folder, n, starter)
    for pid in [*run.ranks, run.launcher.pid]:  # as Slurm tells a step
        os.kill(pid, signal.SIGTERM)
    twice = run.end(WITHIN_SIGNAL)
    run.check(saved=True)
    run = Run(folder, n, starter)
    os.kill(run.launcher.pid, signal.SIGKILL)
    orphaned = run.end(WITHIN_KILL)
    run.check(saved=True)
    return f"SIGTERM saved in {seconds:.1f} s, to all at once in {twice:.1f} s; killed, none left in {orphaned:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one of signals, kills, orphans, stopped, torchrun, equal")
    parser.add_argument("--slower", type=float, default=1.0, help="factor of the promised times, on a busy machine")
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
    options = parser.parse_args()
    global slower
    slower = options.slower
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_texts(folder)
        if options.only in (None, "equal"):
            write_alone(folder)
            for n in options.processes:
                equal(folder, n)
            for n in (1, 2, 3):
                go_on(folder, n)
        cases: list[Callable[[Path, int], str]] = [signals, kills, orphans, stopped, torchrun]
        for case in cases:
            for n in options.processes if options.only in (None, case.__name__) else []:
                print(f"{case.__name__}, {n} processes: {case(folder, n)}", flush=True)


if __name__ == "__main__":
    main()
