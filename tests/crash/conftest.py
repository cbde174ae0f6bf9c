from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from microgpt.cli import main
from tests.crash.runs import end_state, new, write_data


class Reference(NamedTuple):
    """An uninterrupted run."""

    data: Path
    out: Path
    end: dict[str, Any]
    seconds: float


def make_folder() -> Path:
    """A folder in memory where there is one: nothing here is about the speed of a disk."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="microgpt-", dir=memory if os.access(memory, os.W_OK) else None))


@pytest.fixture(scope="package")
def ram() -> Iterator[Path]:
    folder = make_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tmp_path(ram: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=ram))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def reference(ram: Path) -> Reference:
    folder = ram / "reference"
    folder.mkdir()
    data = write_data(folder)
    assert main(new(data, folder / "warm")) == 0
    start = time.perf_counter()
    assert main(new(data, folder / "run")) == 0
    return Reference(data, folder / "run", end_state(folder / "run"), time.perf_counter() - start)


@pytest.fixture(scope="package")
def halfway(reference: Reference, ram: Path) -> Path:
    """The same run, stopped at step 20."""
    out = ram / "halfway"
    assert main(new(reference.data, out, stop_at=20)) == 0
    return out


@pytest.fixture
def copy(halfway: Path, tmp_path: Path) -> Callable[[], Path]:
    """Fresh copies of the stopped run."""
    count = iter(range(10**6))

    def fresh() -> Path:
        out = tmp_path / f"copy{next(count)}"
        shutil.copytree(halfway, out)
        return out

    return fresh
