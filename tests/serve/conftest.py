"""One server for the session: a tiny chat model is the default, `names` saw no conversation, `bytes` is a BPE model."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microgpt.training.train import train
from tests.chats import tiny
from tests.serve.running import Server, connect, serving, train_endless

CHAT, NAMES, BYTES = "tiny", "names", "bytes"  # how the models are called


@pytest.fixture(scope="session")
def bytes_run(talks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model whose tokenizer is a BPE: it writes any byte, half characters and JSON too."""
    config = tiny(talks, model={"block_size": 256}, run={"steps": 60, "samples": 0})
    bpe = config.data.model_copy(update={"tokenizer": "bpe", "vocab_size": 300})
    out = tmp_path_factory.mktemp("runs") / BYTES
    train(config.model_copy(update={"data": bpe}), out)
    return out


@pytest.fixture(scope="session")
def server(
    chat_run: Path, names_run: Path, bytes_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with the models `tiny` (of chats, the default), `names` and `bytes`."""
    log = tmp_path_factory.mktemp("serve") / "log"
    others = ["--model", f"{NAMES}={names_run}", "--model", f"{BYTES}={bytes_run}", "--max-models", "3"]
    with serving(chat_run, *others, log=log) as running:
        yield running


@pytest.fixture(scope="session")
def names_server(names_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose only model never saw a conversation."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(names_run, log=log) as running:
        yield running


@pytest.fixture
def dial() -> Iterator[Callable[..., socket.socket]]:
    """`connect`, whose connections are closed when the test ends, however it ends."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(connect(*arguments, **options))


@pytest.fixture(scope="session")
def endless_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that at temperature 0 writes ababab… to the end of its context of 4096 tokens."""
    return train_endless(tmp_path_factory.mktemp("endless"))
