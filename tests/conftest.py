from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from microgpt.data import datasets

pytest_plugins = ["tests.browser", "tests.chats", "tests.signatures", "tests.skips"]

hypothesis.settings.register_profile("no clock", deadline=None)  # a busy machine may take a second for any example
hypothesis.settings.load_profile("no clock")

# A shell lets what it starts in the background ignore Ctrl-C, and that is inherited; the tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long forms: 200 random gradient checks per rung")


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The file of a data set in the folders of MICROGPT_DATA_DIR; the test is skipped without it."""

    def path(name: str) -> Path:
        found = datasets.locate(name)
        if not found:
            pytest.skip(f"{name} is not in a folder of MICROGPT_DATA_DIR")
        return found

    return path


@pytest.fixture
def given_names() -> Path:
    """The package's own list of names."""
    return Path(datasets.__file__).with_name("given_names.txt")
