"""Several processes of one command: `microgpt train … --processes 4` starts it four times and passes signals on.

torchrun starts them as well, on several machines too; it needs none of this.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import IO, Any

from microgpt.commands import command_line
from microgpt.engines.processes import LAUNCHER, LISTENER, LOST, count, environment
from microgpt.errors import MicrogptError, NumericError, Stopped, UsageError
from microgpt.signals import StopRequest, listen
from microgpt.terminal import say

POLL = 0.05  # seconds between two looks at the processes
TERMINATE = 3.0  # seconds after the end of one until the others are told to end,
KILL = 7.0  # until those are killed that write nothing,
KILL_LEADER = 60.0  # and until the first one is, which may be saving
TAIL = 20  # lines that are kept of what a process other than the first prints


def is_led(processes: str | None) -> bool:
    """Whether another process leads this run, which this one has then trained to its end.

    Starts the processes that are asked for, unless this is one of them already. Raises SystemExit when they have
    ended, UsageError, and whatever ends training.
    """
    rank, size = environment()
    if size == 1 and processes is not None and (n := count(processes)) > 1:
        raise SystemExit(Launcher(n, [sys.executable, "-m", "microgpt", *command_line]).run())
    if size > 1 and processes is not None and LAUNCHER not in os.environ:
        raise UsageError(f"--processes {processes}: {size} processes are started already (WORLD_SIZE); leave it out")
    if not rank:
        return False
    from microgpt.training.follow import follow

    try:
        follow()
    except MicrogptError as error:
        end_if_lost(error)
        if isinstance(error, Stopped | NumericError) or error.code == "E_MOVED":  # the first process reports it
            raise SystemExit(error.status) from None
        raise
    return True


def end_if_lost(error: MicrogptError) -> None:
    """Raise SystemExit where another process has ended and a launcher will say which."""
    if error.code == "E_PROCESSES" and LAUNCHER in os.environ:
        raise SystemExit(LOST) from None


class Launcher:
    """The processes of a command on this machine."""

    def __init__(self, n: int, words: Sequence[str]) -> None:
        self.n = n
        self.tails: list[deque[str]] = [deque(maxlen=TAIL) for _ in range(n)]
        self.sent: list[set[int]] = [set() for _ in range(n)]  # signals
        # Opened here, so that no other program takes the port meanwhile.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.processes = [self._start(rank, words, listener) for rank in range(n)]

    def _start(self, rank: int, words: Sequence[str], listener: socket.socket) -> subprocess.Popen[str]:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.n, "LOCAL_WORLD_SIZE": self.n}
        ours = {LAUNCHER: os.getpid(), LISTENER: listener.fileno()}
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
        network = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
        others: dict[str, Any] = {} if rank == 0 else {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        process = subprocess.Popen(
            list(words),
            env={**network, **os.environ, **place, **{name: str(value) for name, value in (ranks | ours).items()}},
            pass_fds=[listener.fileno()] if rank == 0 else [],
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
            stderr=None if rank == 0 else subprocess.PIPE,
            text=True,
            errors="replace",
            **others,
        )
        if process.stderr:
            threading.Thread(target=self._keep, args=[rank, process.stderr], daemon=True).start()
        return process

    def _keep(self, rank: int, lines: IO[str]) -> None:
        with lines:
            self.tails[rank].extend(line.strip() for line in lines if line.strip())

    def run(self) -> int:
        """Wait for all of them; returns the exit status. Says in one line why they ended unless the first did."""
        try:
            with listen() as stop:
                self._wait(stop)
        finally:
            self._signal(signal.SIGKILL, self._alive())
        return self._status(stop)

    def _alive(self) -> list[int]:
        return [rank for rank, process in enumerate(self.processes) if process.poll() is None]

    def _signal(self, number: int, ranks: Sequence[int]) -> None:
        for rank in ranks:
            self.sent[rank].add(number)
            self.processes[rank].send_signal(number)

    def _wait(self, stop: StopRequest) -> None:
        ended: float | None = None  # when the first one that failed, or all that leads, was over
        while alive := self._alive():
            if stop.number:
                self._signal(stop.number, [rank for rank in alive if not self.sent[rank]])
            if ended is None and (0 not in alive or any(p.returncode for p in self.processes)):
                ended = time.monotonic()
            since = 0.0 if ended is None else time.monotonic() - ended
            if since > TERMINATE and (told := [rank for rank in alive if not self.sent[rank]]):
                self._signal(signal.SIGTERM, told)
                self._signal(signal.SIGCONT, told)  # of those that are stopped too
            self._signal(signal.SIGKILL, [rank for rank in alive if since > (KILL if rank else KILL_LEADER)])
            time.sleep(POLL)

    def _status(self, stop: StopRequest) -> int:
        codes = [process.returncode for process in self.processes]
        for rank, code in enumerate(codes):
            if code >= 0 or -code in self.sent[rank]:
                continue
            name = signal.Signals(-code).name
            say(
                f"microgpt: process {rank} of {self.n} (number {self.processes[rank].pid}) was ended by {name}; "
                f"the last checkpoint is whole, continue with --resume"
            )
            return 128 - code
        first = codes[0] if codes[0] >= 0 else 128 - codes[0]
        if first not in (0, LOST) and not self.sent[0] - {stop.number}:
            return first
        for rank, code in enumerate(codes):
            if code > 0 and code != LOST:
                said = next((line for line in reversed(self.tails[rank]) if line.startswith("microgpt: ")), None)
                reason = said.removeprefix("microgpt: ") if said else f"ended with status {code}"
                say(f"microgpt: process {rank} of {self.n}: {reason}")
                return code
        if LOST in codes:
            say(
                "microgpt: a process of this run did not answer in time; the last checkpoint is whole, continue with "
                "--resume (MICROGPT_PROCESS_TIMEOUT sets the seconds)"
            )
            return 5
        return first
