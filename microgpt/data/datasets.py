"""Data sets by name: their mirrors, their pinned SHA-256, and the folders that are searched for them.

Nothing is taken on trust: a file counts as the data set only if its SHA-256 is the pinned one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from microgpt import files
from microgpt.errors import DataError, MachineError, UsageError, nearest
from microgpt.files import sha256

TRIES = 3  # per mirror


class Dataset(NamedTuple):
    """A public text with its pinned content."""

    file: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    about: str
    licence: str
    fallback: str | None = None  # a file of the package to use without a network


DATASETS: dict[str, Dataset] = {
    "names": Dataset(
        "names.txt",
        (
            "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt",
            "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
        ),
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        228_145,
        "32,033 given names, one per line (makemore)",
        "MIT; from public US government data",
        "given_names.txt",
    ),
    "alice": Dataset(
        "alice.txt",
        (
            "https://raw.githubusercontent.com/GITenberg/Alice-s-Adventures-in-Wonderland_11/7f18748/11-0.txt",
            "https://raw.githubusercontent.com/GITenberg/Alice-s-Adventures-in-Wonderland_11/master/11-0.txt",
            "https://www.gutenberg.org/files/11/11-0.txt",
        ),
        "49a0b2726606e1290ac03a63978fa1dd1bd38a8d805704d98265f393533ea094",
        173_595,
        "Alice's Adventures in Wonderland, by Lewis Carroll (Project Gutenberg 11)",
        "public domain; header and footer carry Project Gutenberg's terms",
    ),
    "shakespeare": Dataset(
        "tinyshakespeare.txt",
        (
            "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a/data/tinyshakespeare/input.txt",
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        ),
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        1_115_394,
        "plays by Shakespeare, 40,000 lines (char-rnn)",
        "public domain",
    ),
    "enneads": Dataset(
        "enneads.txt",
        (
            "https://raw.githubusercontent.com/rolandnsharp/vidya/0a4dfca/ocaml/input.txt",
            "https://raw.githubusercontent.com/rolandnsharp/vidya/699d26b/ocaml/input.txt",
        ),
        "c93ea7cca90a8734339f34756474ddd7e31cc6dc3f526c0e555d67702aefd655",
        1_048_323,
        "The Six Enneads, by Plotinus, in lines of at most 88 characters (Vidya)",
        "translation of 1917-1930; public domain in the US",
    ),
}
PYDOCS = "pydocs"  # the one set that is made locally, from the documentation that comes with Python


def dataset(name: str) -> Dataset:
    """A data set by its name. Raises UsageError with the nearest names."""
    if name not in DATASETS:
        raise UsageError(f"no data set is called {name!r}; {nearest(name, {**DATASETS, PYDOCS: None})}")
    return DATASETS[name]


def data_folders() -> list[Path]:
    """The folders searched for data sets: those of MICROGPT_DATA_DIR, then the user's cache."""
    named = os.environ.get("MICROGPT_DATA_DIR", "")
    return [*(Path(folder) for folder in named.split(os.pathsep) if folder), cache_folder()]


def cache_folder() -> Path:
    """The user's cache for downloaded data."""
    return files.cache_folder("data")


def locate(name: str) -> Path | None:
    """The data set's file in one of the data folders, or None. Raises DataError if a file has another content."""
    wanted = dataset(name)
    for folder in data_folders():
        path = folder / wanted.file
        if path.is_file():
            if sha256(path) == wanted.sha256:
                return path
            raise DataError(
                f"{path}: not the data set {name!r} (its SHA-256 differs); remove it, or train on it with --data {path}"
            )
    return None


def find(name: str, progress: bool = True) -> tuple[Path, str | None]:
    """The data set's file: from a data folder, downloaded, or the package's stand-in if there is no network; and for
    the stand-in a note for the user.

    Raises DataError or MachineError if there is none.
    """
    wanted, path = dataset(name), locate(name)
    if path:
        return path, None
    try:
        return fetch(name, progress), None
    except MachineError as error:
        if not wanted.fallback:
            raise
        stand_in = Path(str(resources.files("microgpt") / "data" / wanted.fallback))
        return stand_in, (
            f"{name}: no {wanted.file} in {data_folders()[0]}, and none can be downloaded: training on the package's "
            f"own list of given names instead, so losses and samples differ from the reference ({error})"
        )


def fetch(name: str, progress: bool = True) -> Path:
    """Download a data set into the user's cache, unless a data folder has it; its SHA-256 is checked.

    Raises MachineError with the place to put the file by hand.
    """
    if path := locate(name):
        return path
    import logging

    import pooch
    import requests

    wanted, folder = dataset(name), cache_folder()
    with files.disk("be written", folder):
        files.make_folders(folder)
        files.require_writable(folder)
    pooch.get_logger().setLevel(logging.ERROR)
    problem = ""
    part = folder / f"{wanted.file}.part"
    with _alone(part):
        if path := locate(name):
            return path
        for attempt, url in enumerate(wanted.urls * TRIES):
            try:
                keeper = Resuming(part, wanted.size, progress)
                return Path(pooch.retrieve(url, f"sha256:{wanted.sha256}", wanted.file, folder, downloader=keeper))
            except (requests.exceptions.RequestException, ValueError, OSError) as error:
                problem = getattr(error, "strerror", None) or type(error).__name__
                if "NameResolutionError" in repr(error):
                    break  # no network: another try would only cost time
                time.sleep(attempt)
    raise MachineError(
        f"data set {name!r}: download failed ({problem}); put {wanted.file} from {wanted.urls[0]} "
        f"into {folder} by hand",
        "E_DOWNLOAD",
    )


PATIENCE = 600.0  # seconds to wait for another process that downloads the same


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold the partial download alone, where the file system has locks. Raises MachineError if another keeps it."""
    from filelock import FileLock, Timeout

    path = part.with_name(f".{part.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        what = f"another process has been downloading it for {PATIENCE:.0f} s"
        raise MachineError(f"{part}: {what}; wait for that one", "E_LOCKED") from None
    except NotImplementedError:
        pass
    try:
        yield
        if not part.exists():  # it is whole: who takes the lock from here on finds that first
            files.discard(path)
    finally:
        lock.release()


class Resuming:
    """A downloader for pooch that keeps a partial download and requests only the rest of it."""

    def __init__(self, part: Path, size: int, progress: bool) -> None:
        self.part, self.size, self.progress = part, size, progress

    def __call__(self, url: str, output_file: str, keeper: Any) -> None:
        """Download `url` to `output_file`. Raises requests' errors, OSError."""
        import requests

        had = self.part.stat().st_size if self.part.is_file() else 0
        if not 0 < had < self.size:
            had = 0
        asked = {"Accept-Encoding": "identity", **({"Range": f"bytes={had}-"} if had else {})}
        with requests.get(url, headers=asked, stream=True, timeout=10) as reply:
            reply.raise_for_status()
            had = had if reply.status_code == 206 else 0
            if not had:
                files.discard(self.part)
            with self._bar(had) as advance:
                for data in reply.iter_content(1 << 13):
                    files.append_bytes(self.part, data)
                    had += len(data)
                    advance(len(data))
                    if had > self.size:
                        break  # longer than the data set: the hash check refuses it
        if had < self.size:
            raise OSError(f"{url}: broke off after {had} of {self.size} bytes")
        files.replace(self.part, Path(output_file))

    @contextmanager
    def _bar(self, had: int) -> Iterator[Callable[[int], None]]:
        if not (self.progress and sys.stderr.isatty()):
            yield lambda n: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(self.part.stem, total=self.size, completed=had)
            yield lambda n: bar.advance(task, n)


def pydocs() -> str:
    """The documentation of the running Python: its topics, with blank lines between them."""
    from pydoc_data.topics import topics

    return "\n\n".join(text.strip() for _, text in sorted(topics.items()))
