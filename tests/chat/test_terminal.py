"""`microgpt chat` as a person meets it: on a pseudo-terminal, with keys."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microgpt.terminal import printable

pty = pytest.importorskip("pty")
PATIENCE = 60.0  # seconds until something that should come is missed


class Person:
    """Someone at a terminal."""

    def __init__(self, command: list[str]) -> None:
        self.screen = ""
        self.end, other = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "INPUTRC": os.devnull, "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=other,
            stdout=other,
            stderr=other,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(other)

    def sees(self, text: str) -> str:
        """Wait for a text; returns what came up to its end."""
        until = time.monotonic() + PATIENCE
        while text not in self.screen:
            assert time.monotonic() < until, f"{text!r} did not come: {self.screen!r}"
            assert self._read(), f"it ended before {text!r}: {self.screen!r}"
        before, _, self.screen = self.screen.partition(text)
        return before + text

    def types(self, text: str) -> None:
        os.write(self.end, text.encode())

    def leaves(self) -> int:
        """Wait for the end; returns the exit status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        if not select.select([self.end], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self.end, 4096)
        except OSError:
            return False
        self.screen += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)


@pytest.fixture
def person(chat_run: Path) -> Iterator[Callable[..., Person]]:
    people: list[Person] = []

    def sit_down(*flags: str) -> Person:
        command = [sys.executable, "-m", "microgpt", "chat", str(chat_run), "--temperature", "0", *flags]
        people.append(Person(command))
        return people[-1]

    yield sit_down
    for one in people:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        os.close(one.end)


def test_a_conversation(person: Callable[..., Person], tmp_path: Path) -> None:
    me = person()
    me.sees("> ")
    me.types("hi\n")
    me.sees("hello there\n")
    me.sees("> ")
    me.types("/help\n")
    for word in ("/clear", "/system", "/temperature", "/topk", "/save", "/quit"):
        me.sees(word)
    me.sees("> ")
    me.types("/temperature 0.25\n")
    me.sees("temperature 0.25")
    me.types("/temperature -1\n")
    me.sees("must be 0 or more")
    me.types("/temperature 0\n")
    me.sees("temperature 0\n")
    me.types("/topk 3\n")
    me.sees("topk 3")
    me.types("/nonsense\n")
    me.sees("no such command")
    me.types(f"/save {tmp_path}/talk.jsonl\n")
    me.sees("saved")
    me.types("/clear\n")
    me.sees("a new conversation")
    me.types("\x1b[A\x1b[A\n")  # the line before the last: saved once more, but there is nothing to save now
    me.sees("nothing was said yet")
    me.types("/system be nice\n")
    me.sees("a new conversation")
    me.types("hi é\n")
    me.sees("'é'")
    me.sees("> ")
    me.types("how are you\n")
    me.sees("\n")
    me.sees("> ")
    me.types("quit\n")
    assert me.leaves() == 0
    talk = json.loads((tmp_path / "talk.jsonl").read_text())
    assert talk == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}]


def test_ctrl_d_leaves_and_ctrl_c_empties_the_line(person: Callable[..., Person]) -> None:
    me = person()
    me.sees("> ")
    me.types("something else")
    me.sees("something else")  # now it waits for keys
    time.sleep(0.2)
    me.types("\x03")
    me.sees("> ")
    me.types("hi\n")
    me.sees("hello there\n")
    me.types("\x04")
    assert me.leaves() == 0


def test_ctrl_c_stops_the_reply_only(person: Callable[..., Person]) -> None:
    me = person("--engine", "scalar", "--temperature", "9", "--seed", "5")  # slow, and it does not come to an end soon
    me.sees("> ")
    me.types("hi\n")
    me.sees("hi\n")
    time.sleep(0.3)
    os.kill(me.process.pid, signal.SIGINT)
    me.sees("> ")
    assert me.process.poll() is None
    me.types("/quit\n")
    assert me.leaves() == 0


def test_a_cut_history_is_told(person: Callable[..., Person]) -> None:
    me = person("--max-tokens", "5")
    me.sees("> ")
    me.types("hi " * 30 + "\n")
    assert "tokens are left out" in me.sees("left out")
    me.types("\x04")
    assert me.leaves() == 0


def test_input_that_is_no_terminal(chat_run: Path) -> None:
    command = [sys.executable, "-m", "microgpt", "chat", str(chat_run), "--temperature", "0"]
    done = subprocess.run(command, input="hi\n\n/clear\nhow are you\nexit\nbye\n", text=True, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "hello there"
    assert len(done.stdout.splitlines()) == 2
    bad = subprocess.run([*command, "-p", "-"], input=" \n", text=True, capture_output=True)
    assert bad.returncode == 2


def test_control_characters_do_not_reach_a_terminal() -> None:
    hostile = "a\x1b[2Jb\x9b31mc\x07\x7f\x00\r\u009dd\n\te"
    assert printable(hostile) == "a[2Jb31mcd\n\te"
