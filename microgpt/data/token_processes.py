"""Tokenizing by processes: batches of documents go to them, and their tokens come back in the batches' order.

Threads do not help: tokenizers hold the interpreter between their short calls. Documents are cut into batches before
they are given out and taken back in order, so the tokens are the same for any number of processes. This process is
one of them: it tokenizes a batch itself while the others have enough. Messages are frames: eight bytes of length, then
a line of JSON and what belongs to it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any

import numpy as np

from microgpt import files, json_text
from microgpt.config import Data
from microgpt.data.tokenize import Tokens, tokenize
from microgpt.errors import DataError, MachineError
from microgpt.tokenizers import Tokenizer
from microgpt.tokenizers import read as read_tokenizer

WORTH = 32 << 20  # bytes of text from which on processes pay for their start
QUEUED = 2  # batches per other process under way, of about a megabyte each
HELD = 8  # batches per other process that wait for their turn, tokenized or not
PIPE_BYTES = 1 << 20  # at each end of a read or write this process's own tokenizing has to hand over the interpreter
BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from microgpt.data.token_processes import main; main()"


def default_processes(size: int) -> int:
    """The number of processes for a text of `size` bytes: one per core that this process may use, 1 for a short one."""
    if size < WORTH:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tokenize_all(
    batches: Iterable[list[str]], tokenizer: Tokenizer, data: Data, source: str, processes: int
) -> Generator[tuple[list[str], Tokens], None, None]:
    """Each batch that is not empty with its tokens, in order. Raises DataError, MachineError."""
    batches = filter(None, batches)
    if processes == 1:
        yield from ((batch, tokenize(batch, tokenizer, data, source)) for batch in batches)
        return
    with Processes(processes, tokenizer, data, source) as pool:
        yield from pool.map(batches)


class Processes:
    """n processes that tokenize, this one among them. The others end with it, however it ends: their input does."""

    def __init__(self, n: int, tokenizer: Tokenizer, data: Data, source: str) -> None:
        self.tokenizer, self.data, self.source = tokenizer, data, source
        self.task = files.to_json({"data": data.model_dump(exclude_none=True), "source": source}, None)
        self.task += tokenizer.to_json()
        self.others = n - 1
        self.all: list[subprocess.Popen[bytes]] = []
        self.idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def __enter__(self) -> Processes:
        self.threads = ThreadPoolExecutor(self.others)  # each waits for a process
        try:
            for _ in range(self.others):
                self.all.append(self._start())
                self.idle.put(self.all[-1])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            process.kill()
        self.threads.shutdown(cancel_futures=True)
        for process in self.all:
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # of what was not sent
                    assert pipe
                    pipe.close()
            process.wait()

    def map(self, batches: Iterable[list[str]]) -> Iterator[tuple[list[str], Tokens]]:
        """Each batch with its tokens, in order; a few batches are held. Raises DataError, MachineError."""
        waiting: deque[tuple[list[str], Future[Tokens]]] = deque()
        for batch in batches:
            given = sum(not answer.done() for _, answer in waiting)
            enough = given >= QUEUED * self.others
            waiting.append((batch, self._here(batch) if enough else self.threads.submit(self._ask, batch)))
            while waiting and (waiting[0][1].done() or len(waiting) > HELD * self.others):
                done, answer = waiting.popleft()
                yield done, answer.result()
        for done, answer in waiting:
            yield done, answer.result()

    def _here(self, batch: list[str]) -> Future[Tokens]:
        """Tokenized by this process; an error waits for its turn, as it would from the others."""
        answer = Future[Tokens]()
        try:
            answer.set_result(tokenize(batch, self.tokenizer, self.data, self.source))
        except DataError as error:
            answer.set_exception(error)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, json_text.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the parent, which ends this one
            )
        except OSError as error:
            raise MachineError(f"a process that tokenizes cannot be started ({error.strerror})") from None
        for pipe in (process.stdin, process.stdout):
            _widen(pipe)
        with suppress(OSError):  # one that ended is found at its first answer
            _send(process.stdin, self.task)
        return process

    def _ask(self, batch: list[str]) -> Tokens:
        process = self.idle.get()
        answer = b""
        with suppress(OSError, ValueError):
            _send(process.stdin, "".join(f"\0{text}" for text in batch).encode())  # no document holds a NUL
            answer = _receive(process.stdout)
        self.idle.put(process)
        if not answer:
            raise MachineError("a process that tokenizes has ended (killed, or out of memory?); run the command again")
        return _unpacked(answer)


def _unpacked(answer: bytes) -> Tokens:
    head, _, body = answer.partition(b"\n")
    counts = json.loads(head)
    if "error" in counts:
        raise DataError(counts["error"], counts["code"])
    n, documents = counts["tokens"], counts["documents"]
    return Tokens(
        np.frombuffer(body, "<i4", n),
        np.frombuffer(body, "<i8", documents, 4 * n),
        np.frombuffer(body, "<i8", offset=4 * n + 8 * documents).reshape(documents, -1),
        counts["left_out"],
    )


def _packed(found: Tokens) -> bytes:
    counts = {"tokens": len(found.tokens), "documents": len(found.lengths), "left_out": found.left_out}
    arrays = (found.tokens.astype("<i4"), found.lengths.astype("<i8"), found.sizes.astype("<i8"))
    return b"".join([files.to_json(counts, None), *(part.tobytes() for part in arrays)])


def _widen(pipe: IO[bytes] | None) -> None:
    """Have the system hold PIPE_BYTES in a pipe; where it may not, reading and writing take more turns."""
    assert pipe
    with suppress(ImportError, AttributeError, OSError):  # not Linux, or more than a user may have
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _send(pipe: IO[bytes] | None, data: bytes) -> None:
    """Write a frame. Raises OSError."""
    assert pipe
    pipe.write(len(data).to_bytes(8, "big"))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes:
    """A frame, or nothing where the other side ended."""
    assert pipe
    head = pipe.read(8)
    data = pipe.read(int.from_bytes(head, "big")) if len(head) == 8 else b""
    return data if len(data) == int.from_bytes(head, "big") else b""


# The other side: what runs in a process.


def main() -> None:
    """Tokenize batches until there are no more."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    head, _, tokenizer_json = _receive(requests).partition(b"\n")
    if not head:
        return
    task: dict[str, Any] = json.loads(head)
    data, tokenizer = Data.model_validate(task["data"]), read_tokenizer(tokenizer_json, "the tokenizer")
    with suppress(BrokenPipeError):  # the other side has gone
        while batch := _receive(requests):
            try:
                answer = _packed(tokenize(batch.decode().split("\0")[1:], tokenizer, data, task["source"]))
            except DataError as error:
                answer = files.to_json({"error": str(error), "code": error.code}, None)
            _send(answers, answer)
