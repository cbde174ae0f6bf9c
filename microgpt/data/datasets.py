"""Data sets by name: where they come from, how they are known to be whole, where they are looked for.

Nothing is taken on trust: a file counts as the data set only if its SHA-256 is the pinned one.
"""

from __future__ import annotations

import os
import time
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from microgpt.config import nearest
from microgpt.errors import DataError, MachineError, UsageError
from microgpt.fsio import sha256

TRIES = 3  # of each mirror


class Dataset(NamedTuple):
    """A public text with its pinned content."""

    file: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    about: str
    licence: str
    fallback: str | None = None  # a file of the package that stands in when there is no network


DATASETS: dict[str, Dataset] = {
    "names": Dataset(
        "names.txt",
        (
            "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt",
            "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
        ),
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        228_145,
        "32,033 given names, one a line (makemore)",
        "MIT; from public US government data",
        "given_names.txt",
    ),
}


class Found(NamedTuple):
    """A data set's file, and what a user should be told about it."""

    path: Path
    note: str | None = None


def dataset(name: str) -> Dataset:
    """A data set by its name. Raises UsageError with the nearest names."""
    if name not in DATASETS:
        raise UsageError(f"no data set is called {name!r}; {nearest(name, DATASETS)}")
    return DATASETS[name]


def data_folders() -> list[Path]:
    """Where data sets are looked for: the folders of MICROGPT_DATA_DIR, then the user's cache."""
    named = os.environ.get("MICROGPT_DATA_DIR", "")
    return [*(Path(folder) for folder in named.split(os.pathsep) if folder), cache_folder()]


def cache_folder() -> Path:
    """The user's cache for downloaded data (MICROGPT_CACHE_DIR overrides the system's place)."""
    import platformdirs

    return Path(os.environ.get("MICROGPT_CACHE_DIR") or platformdirs.user_cache_dir("microgpt")) / "data"


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


def find(name: str, progress: Any = True) -> Found:
    """The data set's file: from a data folder, downloaded, or the package's stand-in if there is no network.

    Raises DataError or MachineError if there is none.
    """
    wanted, path = dataset(name), locate(name)
    if path:
        return Found(path)
    try:
        return Found(fetch(name, progress))
    except MachineError as error:
        if not wanted.fallback:
            raise
        stand_in = Path(str(resources.files("microgpt") / "data" / wanted.fallback))
        return Found(
            stand_in,
            f"{name}: no network and no {wanted.file} in {data_folders()[0]}: training on the package's own list "
            f"of given names instead, so losses and samples differ from the reference ({error})",
        )


def fetch(name: str, progress: Any = True) -> Path:
    """Download a data set into the user's cache, unless it is there: hash checked.

    Raises MachineError with the place to put the file by hand.
    """
    if path := locate(name):
        return path
    import logging

    import pooch
    import requests

    wanted, folder = dataset(name), cache_folder()
    pooch.get_logger().setLevel(logging.ERROR)
    problem = ""
    for attempt, url in enumerate(wanted.urls * TRIES):
        try:
            keeper = pooch.HTTPDownloader(progressbar=progress, timeout=10)
            return Path(pooch.retrieve(url, f"sha256:{wanted.sha256}", wanted.file, folder, downloader=keeper))
        except (requests.exceptions.RequestException, ValueError, OSError) as error:
            problem = type(error).__name__
            if "NameResolutionError" in repr(error):
                break  # no network: trying again would only make the user wait
            time.sleep(attempt)
    raise MachineError(
        f"data set {name!r}: download failed ({problem}); put {wanted.file} from {wanted.urls[0]} "
        f"into {folder} by hand",
        "E_DOWNLOAD",
    )
