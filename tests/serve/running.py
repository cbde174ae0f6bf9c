"""A real server for tests: `microgpt serve` in a process of its own on a free port, and a client for it."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import httpx2

from microgpt.config import Config
from microgpt.training.train import train

SECONDS = 90  # after which a test gives up on an answer, also of a machine that is kept busy by others


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.port = int(url.rpartition(":")[2])
        # Threads share it, and their further connections end with their requests: tests count descriptors.
        self.client = httpx2.Client(base_url=url, timeout=SECONDS, limits=httpx2.Limits(max_keepalive_connections=1))

    def post(self, path: str, body: object, **headers: str) -> httpx2.Response:
        return self.client.post(path, json=body, headers=headers)

    def get(self, path: str) -> httpx2.Response:
        return self.client.get(path)

    def cpu_seconds(self) -> float:
        """That its process has used: a busy machine makes no request expensive."""
        if sys.platform != "linux":
            return time.monotonic()
        numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, numbers[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(
    *arguments: str | Path, log: Path, before: str = "", port: str = "0", **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The process of `microgpt serve` with these arguments; `before` is code that runs first."""
    words = ["serve", *(["--port", port] if port else []), *map(str, arguments)]
    command = [sys.executable, "-c", f"{before}\nimport sys; from microgpt.cli import main; sys.exit(main({words}))"]
    variables = {
        k: v for k, v in os.environ.items() if k not in ("MODEL_DIR", "PORT", "MICROGPT_API_KEY")
    } | environment
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=variables)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout
        process.stdout.close()


@contextmanager
def serving(*arguments: str | Path, log: Path, **options: str) -> Iterator[Server]:
    """As `started` on a free port, with a client, from when it listens until the block ends."""
    with started(*arguments, log=log, **options) as process:
        server = Server(process, listening(process.stdout, log), log)
        with server.client:
            yield server


def listening(stdout: IO[str] | None, log: Path) -> str:
    """The address of the first line."""
    assert stdout
    line = stdout.readline()
    assert line.startswith("listening on http://"), line + log.read_text()
    return line.removeprefix("listening on ").strip()


def connect(port: int, data: bytes, *, address: str = "127.0.0.1", buffer: int = 0) -> socket.socket:
    """A connection from an address that has sent these bytes, in which PORT stands for the port."""
    connection = socket.socket()
    try:
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.bind((address, 0))
        connection.settimeout(SECONDS)
        connection.connect(("127.0.0.1", port))
        connection.sendall(data.replace(b"PORT", str(port).encode()))
    except BaseException:
        connection.close()
        raise
    return connection


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def read_all(connections: Sequence[socket.socket]) -> list[bytes]:
    """The bytes that arrive on each until all are closed by the other side, or nothing arrives for SECONDS."""
    texts = {connection: bytearray() for connection in connections}
    with selectors.DefaultSelector() as waiting:
        for connection in connections:
            waiting.register(connection, selectors.EVENT_READ)
        while waiting.get_map() and (ready := waiting.select(SECONDS)):
            for key, _ in ready:
                connection = cast(socket.socket, key.fileobj)
                part = b""
                with contextlib.suppress(ConnectionError):
                    part = connection.recv(65536)
                texts[connection] += part
                if not part:
                    waiting.unregister(connection)
    return [bytes(text) for text in texts.values()]


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """The status and all bytes of the answer with a Content-Length that arrives, 0 if there is none."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while not _complete(answer) and (part := connection.recv(65536)):
            answer += part
    found = re.match(rb"HTTP/1.1 (\d{3}) ", answer)
    return int(found[1]) if found else 0, answer


def _complete(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(blank and length and len(body) >= int(length[1]))


def train_endless(folder: Path) -> Path:
    """A model in a folder that at temperature 0 writes ababab… to the end of its context of 4096 tokens."""
    (folder / "text.txt").write_text("ab" * 4000, encoding="utf-8")
    sections = {
        "data": {"path": str(folder / "text.txt"), "format": "lines"},
        "model": {"block_size": 4096, "n_embd": 8, "n_head": 1, "n_layer": 1},
        "optim": {"learning_rate": 0.05},
        "run": {"steps": 8, "samples": 0, "batch_size": 1},
    }
    train(Config.from_dict(sections), folder / "run")
    return folder / "run"
