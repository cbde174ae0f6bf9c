"""One server for the session: a tiny chat model is the default, `names` saw no conversation, `bytes` is a BPE model."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from microgpt.config import Config
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
    """A server whose only model never saw a conversation. Other machines may use it."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(names_run, "--host", "0.0.0.0", "--insecure", log=log) as running:
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


@pytest.fixture(scope="session")
def runs_folder(talks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a few seconds: `names` (five checkpoints, a held-out part), `talk` (chat), `bytes` (chat, BPE)."""
    folder = tmp_path_factory.mktemp("page")
    text = folder / "names.txt"
    text.write_text("em\nemma\nolivia\nava\nisla\namelia\nmia\nlily\nella\nmila\n" * 10, encoding="utf-8")
    config = Config.from_dict(
        {
            "name": "names",
            "data": {"path": str(text), "val_fraction": 0.2},
            "optim": {"learning_rate": 0.02},
            "run": {"steps": 100, "batch_size": 4, "checkpoint_every": 20, "keep": 5, "eval_every": 20, "samples": 3},
        }
    )
    train(config, folder / "runs" / "names")
    train(tiny(talks), folder / "runs" / "talk")
    small = tiny(talks, model={"block_size": 128}, run={"steps": 60, "samples": 0})
    bpe = small.data.model_copy(update={"tokenizer": "bpe", "tokenizer_size": 300})
    train(small.model_copy(update={"data": bpe}), folder / "runs" / "bytes")
    return folder / "runs"


@pytest.fixture(scope="session")
def page_server(runs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`microgpt serve` with the runs of the folder; `names` is the first."""
    log = tmp_path_factory.mktemp("serve") / "log"
    others = [f"--model={name}={runs_folder / name}" for name in ("talk", "bytes")]
    with serving(runs_folder / "names", *others, log=log) as server:
        yield server
