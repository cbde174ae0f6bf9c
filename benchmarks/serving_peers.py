"""Servers of others beside ours, on the same model, exported: 32 streams of 64 tokens each, one after another.

    TRANSFORMERS=elsewhere/bin/transformers LLAMA_SERVER=llama.cpp/build/bin/llama-server \\
        python -m benchmarks.serving_peers

`transformers serve` needs transformers[serving] and torch, in any environment. Both are programs on the PATH, or where
the environment's TRANSFORMERS and LLAMA_SERVER say; a row says which of them is not there. The model and the client are
those of benchmarks/serving.py; all servers get the two cores that the client has, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import Options, Row, ratio, script
from benchmarks.serving import PROMPT, models, reading, request, serving, throughput
from microgpt.cli import main as microgpt

COUNT, TOKENS = 32, 64
START_SECONDS = 180


class Peer(NamedTuple):
    """A server of others."""

    name: str
    variable: str  # of the environment, that says where its program is
    program: str  # on the PATH
    format: str  # that it opens
    flags: str


PEERS = [
    Peer("transformers serve", "TRANSFORMERS", "transformers", "hf",
         "serve {model} --device cpu --dtype float32 --continuous-batching --host 127.0.0.1 --port {port}"),
    Peer("llama.cpp's server", "LLAMA_SERVER", "llama-server", "gguf",
         f"-m {{model}} --host 127.0.0.1 --port {{port}} -np {COUNT} -c {COUNT * 256} --no-webui"),
]  # fmt: skip


def measure(port: int, **fields: Any) -> float:
    """Tokens per second of all streams together; the best of three, of which the first one warms the server up."""
    stream = {"prompt": PROMPT, "temperature": 0, "stream": True, "max_tokens": TOKENS}
    return max(throughput(reading(port, request("/v1/completions", stream | fields), COUNT)) for _ in range(3))


def measure_peer(peer: Peer, run: Path, folder: Path) -> tuple[float | None, str]:
    """Its tokens per second on the exported model, or None and why there are none."""
    program = shutil.which(os.environ.get(peer.variable) or peer.program)
    if not program:
        return None, "not installed here"
    model = folder / f"larger.{peer.format}"
    microgpt(["export", str(run), "--to", peer.format, "--out", str(model)])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, *peer.flags.format(model=model, port=port).split()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return measure(port, model=str(model)), ""
            time.sleep(0.2)
        return None, "it does not start"
    except (AssertionError, OSError) as error:
        return None, str(error)
    finally:
        process.kill()
        process.wait()


def family(options: Options) -> list[Row]:
    """The rows."""
    with tempfile.TemporaryDirectory() as folder:
        _, larger = models(Path(folder), options)
        with serving(larger, "--engine", options.engine) as port:
            ours = measure(port)
        found = [(peer, *measure_peer(peer, larger, Path(folder))) for peer in PEERS if options.peers]
    about = f"serving 1.25 M parameters: {COUNT} streams of {TOKENS} tokens"
    return [
        Row(about, peer.name, "tokens/s", ours, theirs, ratio(ours, theirs), note=note) for peer, theirs, note in found
    ]


if __name__ == "__main__":
    script(family, __doc__, cores=2)
