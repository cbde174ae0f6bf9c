"""Tiny runs to kill: how they are started, gone on with, and compared to the last bit."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from microgpt.cli import main
from microgpt.runs import checkpoint
from microgpt.signals import Terminated, raise_on_signal

STEPS = 40
NAMES = "ada ben cleo dora emil finn gina hugo ines jan kira lena mara nils olga pia rosa sven tina ulla".split()


def write_data(folder: Path) -> Path:
    """Forty short documents."""
    path = folder / "names.txt"
    path.write_text("".join(f"{name}\n{name[::-1]}\n" for name in NAMES), encoding="utf-8")
    return path


def new(data: Path, out: Path, **flags: object) -> list[str]:
    """The words of a run that saves, evaluates and samples often; `flags` go over its own."""
    size = {"n_embd": 4, "n_head": 2, "block_size": 8, "batch_size": 2, "engine": "manual", "dtype": "float64"}
    often = {"steps": STEPS, "checkpoint_every": 5, "eval_every": 10, "sample_every": 10, "keep": 2, "samples": 2}
    named = {"data": data, "out": out, **size, **often, **flags}
    words = [word for key, value in named.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return ["train", "names", *words]


def go_on(start: list[str], out: Path) -> list[str]:
    """The words that take a run to its end from whatever a crash left of it."""
    return ["train", "names", "--resume", "--out", str(out)] if (out / "run.toml").exists() else start


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def end_state(out: Path) -> dict[str, Any]:
    """All that must be equal, bit for bit, whatever happened on the way. (Which older checkpoints are left is not: a
    stop leaves one more, and a kill between a save and its rotation one that the next save rotates out.)"""
    saved = checkpoint.read(out, "last")
    state = {key: value for key, value in saved.state.items() if key != "seconds"}
    tensors = {name: value.tobytes() for name, value in saved.tensors().items()}
    return {"state": state, "metrics": metrics(out), "tensors": tensors}


def finish(start: list[str], out: Path) -> dict[str, Any]:
    """Go on to the end, in this process."""
    assert main(go_on(start, out)) == 0
    assert not [entry for entry in out.rglob("*") if entry.name.startswith(".microgpt-tmp-")], "litter was left"
    return end_state(out)


def spawn(words: list[str], log: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run a command in a fork of this process; returns its pid once it answers signals as the installed one does."""
    ready, begun = os.pipe()
    both = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads; the child uses none of them
        pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        os.close(begun)
        os.read(ready, 1)
        os.close(ready)
        return pid
    status = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        sys.stdout = sys.stderr = open(descriptor, "w", buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        with raise_on_signal():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
            os.write(begun, b".")
            status = main(words)
    except Terminated:
        status = 143
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """Its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid: int, seconds: float, number: int = signal.SIGKILL) -> int:
    """Send a signal after a while; returns how the process ended."""
    time.sleep(seconds)
    os.kill(pid, number)
    return wait(pid)
