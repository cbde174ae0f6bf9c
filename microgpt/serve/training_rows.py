"""The row of tokens that a run trains on at a step, read from its text again where that is small and as it was."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from microgpt.data.here import here
from microgpt.errors import MicrogptError
from microgpt.feed import Feed, pack
from microgpt.runs import checkpoint
from microgpt.runs.checkpoint import Checkpoint
from microgpt.training.prepare import RunSetup, prepare

MOST_DOCUMENTS = 100_000  # of a text that is read for the page


class NoText(Exception):
    """The text is not here as it was, or is too large; the message is for people."""


def row_of_step(saved: Checkpoint) -> tuple[Feed, int]:
    """The first row of the step after a checkpoint, and how many rows that step has. Raises NoText."""
    data = saved.state.get("data") or {}
    if not data.get("sha256"):
        raise NoText("this model does not say what it was trained on; type a document")
    if data.get("documents", 0) > MOST_DOCUMENTS:
        raise NoText(f"its text has more than {MOST_DOCUMENTS:,} documents, which are not read here; type one")
    setup = _setup(saved.path, data["sha256"])
    feed = setup.feed(saved.step, 1)
    tokens, scored = next(feed.rows(0))
    row = pack([tokens], [scored], first_step=saved.step, seed=setup.config.run.seed)
    return row, setup.rows_per_step


@lru_cache(maxsize=4)
def _setup(path: Path, sha256: str) -> RunSetup:
    """The run of a checkpoint with its text. Raises NoText where the text is another one by now."""
    try:
        saved = checkpoint.read(path)
        data = here(saved.config.data)
        run = saved.config.run.model_copy(update={"engine": "auto", "dtype": "auto", "device": "auto"})
        setup = prepare(saved.config.model_copy(update={"data": data, "run": run}), source=saved)
    except (MicrogptError, OSError) as error:
        raise NoText(f"its training text cannot be read ({error}); type a document") from None
    if setup.training.fingerprint != sha256:
        raise NoText("its training text is not as it was; type a document")
    return setup
