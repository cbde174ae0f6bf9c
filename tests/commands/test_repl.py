"""The conversation of `microgpt chat` on a pseudo-terminal, with keys, and on a pipe."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))  # not on Windows
PATIENCE = 20.0  # seconds until something that should come is missed


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
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
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
        until = time.monotonic() + PATIENCE
        while self._read() and self.process.poll() is None:
            assert time.monotonic() < until, f"it did not leave: {self.screen!r}"
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

    def sit_down(*flags: str, program: Sequence[str] = ("-m", "microgpt")) -> Person:
        command = [sys.executable, *program, "chat", str(chat_run), "--temperature", "0", *flags]
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
    me.types("/?\n")
    me.sees("/clear")
    me.sees("> ")
    me.types("/temperature 0.25\n")
    me.sees("temperature 0.25")
    me.types("/temperature -1\n")
    me.sees("must be 0 to 1,000,000")
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
    me.sees("the conversation is empty")
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
    me.sees("> ")
    time.sleep(0.2)  # now it waits for keys
    me.types("\x04")
    assert me.leaves() == 0


SLOWLY = """
import sys, time
from microgpt.cli import main
from microgpt.inference import language_model
generate_tokens = language_model.generate_tokens
def slow(*given, **options):
    for token in generate_tokens(*given, **options):
        time.sleep(0.3)
        yield token
language_model.generate_tokens = slow
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_stops_the_reply_only(person: Callable[..., Person], tmp_path: Path) -> None:
    me = person(program=["-c", SLOWLY])
    me.sees("> ")
    me.types("hi\n")
    me.sees("hel")
    me.types("\x03")
    assert "there" not in me.sees("> ")
    me.types(f"/save {tmp_path}/talk.jsonl\n")
    me.sees("saved")
    assert me.process.poll() is None
    me.types("/bye\n")
    assert me.leaves() == 0
    said = json.loads((tmp_path / "talk.jsonl").read_text())[1]["content"]
    assert "hello".startswith(said[:5])
    assert said.startswith("hel")


def test_a_cut_history_is_told(person: Callable[..., Person]) -> None:
    me = person("--max-tokens", "5")
    me.sees("> ")
    me.types("hi " * 30 + "\n")
    assert "tokens are left out" in me.sees("left out")
    me.sees("> ")
    time.sleep(0.2)  # now it waits for keys
    me.types("\x04")
    assert me.leaves() == 0


def test_input_that_is_no_terminal(chat_run: Path) -> None:
    command = [sys.executable, "-m", "microgpt", "chat", str(chat_run), "--temperature", "0"]
    done = subprocess.run(command, input="hi\n\n/clear\nhow are you\nexit\nbye\n", text=True, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "hello there"
    assert len(done.stdout.splitlines()) == 2


def test_a_command_that_fails_does_not_end_piped_input(chat_run: Path) -> None:
    command = [sys.executable, "-m", "microgpt", "chat", str(chat_run), "--temperature", "0", "--engine", "manual"]
    done = subprocess.run(command, input="/nonsense\n/topk x\nhi\n", text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "hello there\n")
    assert [line.split(";")[0] for line in done.stderr.splitlines()] == [
        "microgpt: /nonsense: no such command",
        "microgpt: /topk x: must be 0 to 2,147,483,647",
    ]
    done = subprocess.run(command, input="é\nhi\n", text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (3, "")
