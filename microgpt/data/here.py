"""The text of a data section on this machine, with the package's stand-in for a data set. Nothing is downloaded."""

from __future__ import annotations

from importlib import resources

from microgpt.config import Data
from microgpt.data.datasets import PYDOCS, dataset, locate, pydocs
from microgpt.data.sources import Source, find_sources, text_source
from microgpt.errors import DataError, UsageError


def here(data: Data) -> Data:
    """The section to read, without a download: of a data set that is not on this machine, with its stand-in.

    Raises DataError or UsageError where there is none.
    """
    if data.path == "-":
        raise DataError("it was standard input, which is gone")
    if data.path or data.dataset == PYDOCS:
        return data
    if not data.dataset:
        raise UsageError("this model does not say what it was trained on")
    if locate(data.dataset):
        return data
    if stand_in := dataset(data.dataset).fallback:
        place = str(resources.files("microgpt") / "data" / stand_in)
        return data.model_copy(update={"dataset": None, "path": place})
    raise DataError(f"the data set {data.dataset} is not on this machine")


def sources_of(data: Data) -> list[Source]:
    """The sources of what `here` gives. Raises DataError or UsageError if there are none."""
    if data.dataset == PYDOCS and not data.path:
        return [text_source(PYDOCS, pydocs())]
    found = here(data)
    return find_sources(str(found.path or locate(str(found.dataset))))
