"""One server for the session: the default model is the tiny chat model, `names` never saw a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.running import Server, serving

CHAT, NAMES = "tiny", "names"  # how the two models are called


@pytest.fixture(scope="session")
def server(chat_run: Path, names_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the models `tiny` (of chats, the default) and `names`."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(chat_run, "--model", f"{NAMES}={names_run}", log=log) as running:
        yield running


@pytest.fixture(scope="session")
def names_server(names_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose only model never saw a conversation."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(names_run, log=log) as running:
        yield running
