"""The service beside what it stands on: an empty handler, bare uvicorn, the engine's own batched decode.

    python -m benchmarks.serving

Server and client are two processes of this machine. Names: one sample per request over 32 connections. The other model
has 1.25 million parameters and writes to the end of its context.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, Options, Row, script
from benchmarks.work import names_file
from microgpt.config import Config
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.slots import open_slots
from microgpt.training.train import train

PROMPT = "ab" * 32
# The server with a handler that computes nothing, and uvicorn with an application that sends 20 events per second.
EMPTY = """
import dataclasses
from microgpt.serve import muchq
async def empty(call):
    return muchq.Samples(samples=["emma"])
muchq.ROUTES[0] = dataclasses.replace(muchq.ROUTES[0], handler=empty)
"""
BARE = """
import asyncio, socket, uvicorn
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(COUNT):
        await send({"type": "http.response.body", "body": b'data: {"choices":[{"text":"a"}]}\\n\\n', "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"data: [DONE]\\n\\n"})
listener = socket.socket(proto=socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen(2048)
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
asyncio.run(uvicorn.Server(config).serve([listener]))
"""


@contextmanager
def program(code: str) -> Iterator[int]:
    """The port of a server, a Python program that says where it listens, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        yield int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.terminate()
        process.communicate()


def serving(run: Path, *flags: str, before: str = "") -> Any:
    """The port of `microgpt serve`."""
    words = ["serve", str(run), "--port", "0", *flags]
    return program(f"{before}\nimport sys; from microgpt.cli import main; sys.exit(main({words}))")


def request(path: str, body: dict[str, Any]) -> bytes:
    """A request as bytes."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    )
    return f"{head}\r\n".encode() + data


class Asking(asyncio.Protocol):
    """A connection that asks the same again as soon as it is answered."""

    def __init__(self, asked: bytes) -> None:
        self.asked, self.answer, self.answers = asked, b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.asked)

    def data_received(self, data: bytes) -> None:
        """Ask again when the answer is whole."""
        self.answer += data
        head, blank, body = self.answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if blank and length and len(body) >= int(length[1]):
            assert head.startswith(b"HTTP/1.1 200"), self.answer
            self.answers, self.answer = self.answers + 1, b""
            self.transport.write(self.asked)


async def asking(port: int, asked: bytes, connections: int, seconds: float) -> float:
    """Answers per second."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Asking(asked), "127.0.0.1", port) for _ in range(connections)]
    await asyncio.sleep(0.2)
    before, began = sum(protocol.answers for _, protocol in made), time.perf_counter()
    await asyncio.sleep(seconds)
    found = (sum(protocol.answers for _, protocol in made) - before) / (time.perf_counter() - began)
    for transport, _ in made:
        transport.abort()
    return found


class Reading(asyncio.Protocol):
    """A connection that notes when each event of a stream arrives."""

    def __init__(self, asked: bytes) -> None:
        self.asked, self.text = asked, b""
        self.times: list[float] = []
        self.asked_at = time.perf_counter()
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.asked)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Note the time for each token of the data."""
        now = time.perf_counter()
        self.times += [now] * data.count(b'"text":"')
        self.text = (self.text + data)[-200:]
        if b"[DONE]" in self.text and not self.done.done():
            self.done.set_result(True)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """A stream that broke off has no [DONE]."""
        if not self.done.done():
            self.done.set_result(False)


async def reading(port: int, asked: bytes, connections: int) -> list[Reading]:
    """That many streams at a time, read to their ends. Raises AssertionError if one of them fails."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Reading(asked), "127.0.0.1", port) for _ in range(connections)]
    assert all(await asyncio.gather(*(protocol.done for _, protocol in made))), "a stream broke off"
    return [protocol for _, protocol in made]


def gap(readings: Sequence[Reading]) -> float:
    """The 99th percentile of the seconds between two tokens of a stream."""
    return float(np.percentile(np.concatenate([np.diff(stream.times) for stream in readings]), 99))


def throughput(readings: Sequence[Reading]) -> float:
    """Tokens per second of all streams together."""
    begin, end = min(stream.times[0] for stream in readings), max(stream.times[-1] for stream in readings)
    return sum(len(stream.times) for stream in readings) / (end - begin)


def models(folder: Path, options: Options) -> tuple[Path, Path]:
    """A run of names, and one of a model of 1.25 million parameters that writes ababab…"""
    names, larger = folder / "names", folder / "larger"
    run = {"steps": 50 if options.quick else 1000, "samples": 0, "engine": options.engine}
    train(Config.from_dict({"data": {"path": str(names_file(options))}, "run": run}), names)
    (folder / "text.txt").write_text("ab" * 500, encoding="utf-8")
    size = {"n_embd": 16, "n_layer": 1} if options.quick else {"n_embd": 128, "n_layer": 6}
    sections = {
        "data": {"path": str(folder / "text.txt"), "format": "lines"},
        "model": {"block_size": 256, "n_head": 4, **size},
        "run": {"steps": 20, "batch_size": 1, "samples": 0, "dtype": "float32", "engine": options.engine},
    }
    train(Config.from_dict(sections), larger)
    return names, larger


def decode(run: Path, count: int, options: Options) -> float:
    """Tokens per second of the engine's slots alone."""
    model = LanguageModel.open(run, engine=options.engine)
    prompt = [model.tokenizer.bos, *model.tokenizer.encode(PROMPT).tolist()]
    slots = open_slots(model.engine, model.state, count)
    each = [slots.admit(prompt) for _ in range(count)]
    for slot in each:
        while slots.prefill(slot, 1 << 16) is None:
            pass
    steps = model.config.model.block_size - len(prompt) - 1
    began = time.perf_counter()
    for _ in range(steps):
        slots.step(each, [0] * count)
    return count * steps / (time.perf_counter() - began)


def family(options: Options) -> list[Row]:
    """The rows."""
    seconds, many = (0.2, 8) if options.quick else (options.seconds, 500)
    one = request("/microgpt/v1/generate", {"seed": 1})
    stream = {"prompt": PROMPT, "temperature": 0, "stream": True}
    with tempfile.TemporaryDirectory() as folder:
        names, larger = models(Path(folder), options)
        engine = ("--engine", options.engine)
        with serving(names, *engine) as port, serving(names, *engine, before=EMPTY) as empty:
            both = [
                (asyncio.run(asking(empty, one, 32, seconds)), asyncio.run(asking(port, one, 32, seconds)))
                for _ in range(3)
            ]
        floor, ours = max(a for a, _ in both), max(b for _, b in both)
        with serving(larger, *engine, "--max-streams", "512") as port:
            short = request("/v1/completions", stream | {"max_tokens": 2})
            alone = [asyncio.run(reading(port, short, 1))[0] for _ in range(5 if options.quick else 100)]
            first = float(np.median([one.times[0] - one.asked_at for one in alone]))
            whole = request("/v1/completions", stream)
            side_by_side = max(throughput(asyncio.run(reading(port, whole, 32))) for _ in range(3))
            crowd = asyncio.run(reading(port, whole, many))
        own = max(decode(larger, 32, options) for _ in range(3))
        with program(BARE.replace("COUNT", "5" if options.quick else "100")) as port:
            bare = gap(asyncio.run(reading(port, whole, many)))
    each = throughput(crowd) / many
    return [
        Row("serving names, a sample per request", "an empty handler", "requests/s", ours, floor, ours,
            target=2000, scale="requests/s"),
        Row("serving 1.25 M parameters: first token, alone", "-", "s", first, None, first, "<=", 0.010, "s"),
        Row("serving 1.25 M parameters: 32 streams", "the engine's slots", "tokens/s", side_by_side, own,
            side_by_side / own, target=0.6),
        Row(f"serving 1.25 M parameters: {many} streams, p99 of the gaps", "uvicorn, 20 events/s each", "s", gap(crowd),
            bare, gap(crowd), "<=", max(0.150, 2 * bare), "s", note=f"{each:.0f} tokens/s each"),
    ]  # fmt: skip


if __name__ == "__main__":
    script(family, __doc__, cores=2)
