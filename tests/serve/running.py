"""A real server for tests: `microgpt serve` in a process of its own on a free port, and a client for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.port = int(url.rpartition(":")[2])
        self.client = httpx2.Client(base_url=url, timeout=30)

    def post(self, path: str, body: object, **headers: str) -> httpx2.Response:
        return self.client.post(path, json=body, headers=headers)

    def get(self, path: str) -> httpx2.Response:
        return self.client.get(path)


@contextmanager
def serving(*arguments: str | Path, log: Path, **environment: str) -> Iterator[Server]:
    """`microgpt serve --port 0` with these arguments, until the block ends."""
    command = [sys.executable, "-m", "microgpt", "serve", "--port", "0", *map(str, arguments)]
    variables = {
        k: v for k, v in os.environ.items() if k not in ("MODEL_DIR", "PORT", "MICROGPT_API_KEY")
    } | environment
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=variables)
    server = None
    try:
        server = Server(process, listening(process.stdout, log), log)
        yield server
    finally:
        if server:
            server.client.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout
        process.stdout.close()


def listening(stdout: IO[str] | None, log: Path) -> str:
    """The address of the first line."""
    assert stdout
    line = stdout.readline()
    assert line.startswith("listening on http://"), line + log.read_text()
    return line.removeprefix("listening on ").strip()
