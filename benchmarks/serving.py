"""The service beside what it stands on: an empty handler, bare uvicorn, the engine's own batched decode.

    python -m benchmarks.serving

Server and client are two processes of this machine. Names: one sample per request over 32 connections. The other model
has 1.25 million parameters and writes to the end of its context. benchmarks/serving_peers.py has the servers of others.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, Options, Row, script
from benchmarks.work import names_file
from microgpt.config import Config
from microgpt.inference.generate import generate_batch
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling
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
    await send({"type": "http.response.body", "body": b'data: {"finish_reason":"length"}\\n\\n'})
listener = socket.socket(proto=socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen(2048)
print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
asyncio.run(uvicorn.Server(config).serve([listener]))
"""


@contextlib.contextmanager
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


class Stream:
    """A connection that asked for a stream, and when each of its tokens arrived."""

    def __init__(self, port: int, asked: bytes) -> None:
        self.connection = connect(port)
        self.times: list[float] = []
        self.asked_at = time.perf_counter()
        self.connection.send(asked)

    def read(self) -> bool:
        """Note the time of the tokens that have arrived. Returns whether the stream has ended."""
        data = self.connection.recv(1 << 16)
        assert data, "a stream broke off"
        now = time.perf_counter()
        self.times += [now] * data.count(b'"text":"')
        return b'"finish_reason":"' in data


def connect(port: int) -> socket.socket:
    """A connection to a server of this machine that sends at once."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def asking(port: int, asked: bytes, connections: int, seconds: float) -> float:
    """Answers per second, each connection asking the same again as soon as it is answered."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        answers = 0
        for _ in range(connections):
            connection = stack.enter_context(connect(port))
            selector.register(connection, selectors.EVENT_READ, [connection, b""])
            connection.send(asked)
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            for key, _ in selector.select(1):
                connection, before = key.data
                data = before + connection.recv(1 << 16)
                key.data[1] = b"" if (whole := data.endswith(b"]}")) else data
                if whole:
                    assert data.startswith(b"HTTP/1.1 200"), data
                    answers += 1
                    connection.send(asked)
        return answers / (time.perf_counter() - began)


def reading(port: int, asked: bytes, count: int) -> list[Stream]:
    """That many streams at a time, read to their ends. Raises AssertionError if one of them fails."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        made = [Stream(port, asked) for _ in range(count)]
        for stream in made:
            stack.enter_context(stream.connection)
            selector.register(stream.connection, selectors.EVENT_READ, stream)
        while selector.get_map():
            ready = selector.select(60)
            assert ready, "no token for a minute"
            for key, _ in ready:
                if key.data.read():
                    selector.unregister(key.fileobj)
        return made


def gap(readings: Sequence[Stream]) -> float:
    """The 99th percentile of the seconds between two tokens of a stream."""
    return float(np.percentile(np.concatenate([np.diff(stream.times) for stream in readings]), 99))


def throughput(readings: Sequence[Stream]) -> float:
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
        "model": {"family": "modern", "activation": "relu2", "block_size": 256, "n_head": 4, **size},
        "run": {"steps": 20, "batch_size": 1, "samples": 0, "dtype": "float32", "engine": options.engine},
    }
    train(Config.from_dict(sections), larger)
    return names, larger


def decode(run: Path, count: int, options: Options) -> tuple[float, float]:
    """Tokens per second of the engine without the service: its slots alone, and its `generate_batch`."""
    model = LanguageModel.open(run, engine=options.engine)
    prompt = [model.tokenizer.bos, *model.tokenizer.encode(PROMPT).tolist()]
    slots = open_slots(model.engine, model.state, count)
    each = [slots.admit(prompt) for _ in range(count)]
    for slot in each:
        while slots.prefill(slot, 1 << 16) is None:
            pass
    steps = model.config.model.block_size - len(prompt)
    began = time.perf_counter()
    for _ in range(steps):
        slots.step(each, [0] * count)
    middle = time.perf_counter()
    never = -1  # no token ends a text
    found, _ = generate_batch(
        model.engine, model.state, prompt, count, model.config.model.block_size, Sampling(0), 0, never
    )
    return count * steps / (middle - began), len(found) / (time.perf_counter() - middle)


def family(options: Options) -> list[Row]:
    """The rows."""
    seconds, many = (0.2, 8) if options.quick else (options.seconds, 500)
    one = request("/microgpt/v1/generate", {"seed": 1})
    stream = {"prompt": PROMPT, "temperature": 0, "stream": True}
    with tempfile.TemporaryDirectory() as folder:
        names, larger = models(Path(folder), options)
        engine = ("--engine", options.engine)
        with serving(names, *engine) as port, serving(names, *engine, before=EMPTY) as empty:
            both = [(asking(empty, one, 32, seconds), asking(port, one, 32, seconds)) for _ in range(3)]
        floor, ours = max(a for a, _ in both), max(b for _, b in both)
        with serving(larger, *engine, "--max-streams", "512") as port:
            short = request("/v1/completions", stream | {"max_tokens": 2})
            alone = [reading(port, short, 1)[0] for _ in range(5 if options.quick else 100)]
            first = float(np.median([one.times[0] - one.asked_at for one in alone]))
            whole = request("/v1/completions", stream)
            side_by_side = max(throughput(reading(port, whole, 32)) for _ in range(3))
            crowd = reading(port, whole, many)
        found = [decode(larger, 32, options) for _ in range(3)]
        slots, batch = max(a for a, _ in found), max(b for _, b in found)
        with program(BARE.replace("COUNT", "5" if options.quick else "100")) as port:
            bare = gap(reading(port, whole, many))
    each = throughput(crowd) / many
    about = "serving 1.25 M parameters"
    return [
        Row("serving names, a sample per request", "an empty handler", "requests/s", ours, floor, ours,
            target=2000, scale="requests/s"),
        Row(f"{about}: first token, alone", "-", "s", first, None, first, "<=", 0.010, "s"),
        Row(f"{about}: 32 streams", "generate_batch", "tokens/s", side_by_side, batch, side_by_side / batch,
            target=0.6),
        Row(f"{about}: 32 streams", "the engine's slots", "tokens/s", side_by_side, slots, side_by_side / slots),
        Row(f"{about}: {many} streams", "-", "tokens/s each", each, None, each, target=20, scale="tokens/s"),
        Row(f"{about}: {many} streams, p99 of the gaps", "uvicorn, 20 events/s each", "s", gap(crowd),
            bare, gap(crowd), "<=", max(0.150, 2 * bare), "s"),
    ]  # fmt: skip


if __name__ == "__main__":
    script(family, __doc__, cores=2)
