"""Ctrl-C and SIGTERM at any moment: saved, the resuming command printed, and the end is the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from microgpt.cli import main
from microgpt.feed import pack
from microgpt.inference.evaluate import held_out_loss
from microgpt.inference.language_model import LanguageModel
from microgpt.signals import HANDED_ON, listen
from microgpt.training import prepare, trainer
from tests.crash.conftest import Reference
from tests.crash.runs import end_state, finish, kill_after, new, spawn, wait

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("n", range(16))
def test_at_random_instants(reference: Reference, tmp_path: Path, n: int) -> None:
    number = (signal.SIGINT, signal.SIGTERM)[n % 2]
    out, log = tmp_path / "run", tmp_path / "log"
    start = new(reference.data, out)
    status = kill_after(spawn(start, log), random.Random(n).uniform(0, reference.seconds), number)
    said = log.read_text().splitlines()
    assert status in (STATUS[number], 0)
    if status:
        assert said[-1].startswith("microgpt: ")
        if "everything is saved" in said[-1]:
            assert said[-2] == f"resume  microgpt train --resume --out {out}"
    end = finish(start, out)
    for what in ("tensors", "metrics"):  # the state of a stop in the last evaluation: see below
        assert end[what] == reference.end[what]


PHASES = {
    "first block": ("Trainer.train_block", 1),
    "later block": ("Trainer.train_block", 4),
    "evaluation": ("held_out_loss", 2),
    "last evaluation": ("held_out_loss", 4),
    "sample": ("LanguageModel.texts", 2),
    "save": ("checkpoint.write", 2),
    "last samples": ("LanguageModel.texts", 5),
}


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("phase", PHASES)
def test_in_every_phase(
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    number: signal.Signals,
) -> None:
    path, at = PHASES[phase]
    *owners, name = path.split(".")
    place = getattr(trainer, owners[0]) if owners else trainer
    function, calls = getattr(place, name), iter(range(1, 10**6))

    def interrupted(*args: object, **kwargs: object) -> object:
        if next(calls) == at:
            signal.raise_signal(number)
        return function(*args, **kwargs)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted)
        assert main(new(reference.data, out)) == STATUS[number]
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("microgpt: stopped at step ")
    assert said[-2].startswith("resume  microgpt train --resume")
    assert finish([], out) == reference.end


def slow_down() -> None:
    """Let every block take half a second."""
    block = trainer.Trainer.train_block

    def slow(self: trainer.Trainer, target: int) -> None:
        for _ in range(25):
            time.sleep(0.02)
        block(self, target)

    trainer.Trainer.train_block = slow  # type: ignore[method-assign]


def test_a_second_signal_ends_at_once(reference: Reference, tmp_path: Path) -> None:
    for n in range(3):
        out = tmp_path / f"run{n}"
        start = new(reference.data, out)
        pid = spawn(start, tmp_path / "log", slow_down)
        time.sleep(0.1 + 0.3 * n)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.05)
        os.kill(pid, signal.SIGINT)
        assert wait(pid) in (-signal.SIGINT, 130)
        assert finish(start, out) == reference.end


@pytest.mark.parametrize("number", STATUS)
def test_before_anything_is_written(
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(prepare, "load", lambda *given, **options: signal.raise_signal(number))
    assert main(new(reference.data, tmp_path / "run")) == STATUS[number]
    assert capsys.readouterr().err == f"microgpt: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"
    assert not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_library_that_swallows_the_signal(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def swallow(*given: object, **options: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("could not build a schema") from error

    monkeypatch.setattr(prepare, "load", swallow)
    assert main(new(reference.data, tmp_path / "run")) == 143
    assert capsys.readouterr().err == "microgpt: terminated\n"


@pytest.mark.parametrize("number", STATUS)
def test_while_the_program_is_still_imported(number: signal.Signals) -> None:
    code = (
        "import builtins, signal\n"
        "from microgpt import __main__\n"
        "real = builtins.__import__\n"
        "def slow(name, *rest):\n"
        f"    if name == 'microgpt.cli': signal.raise_signal({int(number)})\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = slow\n"
        "__main__.script()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == STATUS[number]
    assert done.stderr == "microgpt: interrupted\n"


def test_outside_the_main_thread_signals_are_left_alone(reference: Reference, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def work() -> None:
        with listen():
            found.append(signal.getsignal(signal.SIGINT))
        found.append(main(new(reference.data, tmp_path / "run")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before, 0]
    assert end_state(tmp_path / "run") == reference.end


@pytest.mark.parametrize("several", [False, True])
def test_a_second_signal_kills_unless_a_launcher_hands_the_first_one_on(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm tells every process of a step, and torchrun, told as well, tells its own again."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    with listen(several) as stop:
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        for _ in range(3):
            handler(signal.SIGTERM, None)
        assert (stop.number, len(killed)) == (signal.SIGTERM, 0 if several else 2)
        stop.since -= HANDED_ON
        handler(signal.SIGINT, None)
        assert killed[-1] == signal.SIGINT
        assert stop.number == signal.SIGTERM


def test_an_evaluation_in_parts_is_the_same(halfway: Path) -> None:
    model = LanguageModel.open(halfway)
    bos = model.tokenizer.bos
    feed = pack([[bos, *range(n % 7 + 1), bos] for n in range(50)], rows_per_step=8)
    whole = model.engine.loss(model.state, feed)
    parts = [model.engine.loss(model.state, feed.part(i, i + 2)) for i in range(0, feed.n_steps, 2)]
    assert np.concatenate(parts).tolist() == whole.tolist()
    pauses: list[int] = []
    counts = np.array([feed.targets(step) for step in range(feed.n_steps)])
    mean, targets = held_out_loss(model.engine, model.state, [feed], lambda: pauses.append(1))
    assert (mean, targets) == (np.dot(whole, counts) / counts.sum(), counts.sum())
    assert len(pauses) > 1


CAPABILITIES = "-all,+dac_override,+dac_read_search"  # to read the package, but not to pass the limit as root does
NOBODY = [
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    *(f"--{k}-caps={CAPABILITIES}" for k in ("inh", "ambient")),
]


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
@pytest.mark.parametrize("words", [["generate", "run"], ["scenarios"]])
def test_a_limit_of_processes_is_no_interruption(tmp_path: Path, words: list[str]) -> None:
    """OpenBLAS raises SIGINT where it can start no thread."""
    import resource

    as_other = ["setpriv", *NOBODY] if os.geteuid() == 0 else []
    if as_other and not shutil.which("setpriv"):
        pytest.skip("root is not limited, and setpriv is missing")
    command = [*as_other, sys.executable, "-m", "microgpt", *words]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "2"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)),
    )
    assert done.returncode == 5, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("microgpt: cannot start a thread: the limit of processes is reached; raise it (ulimit -u)")
    assert "interrupted" not in done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("can't start new thread")])
def test_threads_that_cannot_start_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise error

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("microgpt.cli.app", interrupted)
    if isinstance(error, KeyboardInterrupt):
        assert main(["info", "run"]) == 130
        assert capsys.readouterr().err == "microgpt: interrupted\n"
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert main(["info", "run"]) == 5
    assert "the limit of processes is reached; raise it (ulimit -u)" in capsys.readouterr().err


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("left", [0, 50])
def test_a_signal_in_a_destructor_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals, left: int
) -> None:
    """Python drops what a destructor raises, with a traceback."""

    class Dropping:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.001)

    def command(*args: object, **options: object) -> None:
        thing = Dropping()
        del thing
        for _ in range(left):
            time.sleep(0.1)

    monkeypatch.setattr("microgpt.cli.app", command)
    began = time.monotonic()
    assert main(["info", "run"]) == STATUS[number]
    assert time.monotonic() - began < 3
    assert capsys.readouterr().err == f"microgpt: {'terminated' if number == signal.SIGTERM else 'interrupted'}\n"
