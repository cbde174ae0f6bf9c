"""How well a model predicts a text: loss, perplexity and, comparable across tokenizers, bits per byte."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, get_args

import numpy as np

from microgpt.config import Data
from microgpt.data.conversations import Chats
from microgpt.data.corpus import Corpus
from microgpt.data.documents import Documents
from microgpt.data.encode import LEFT_OUT
from microgpt.data.load import load
from microgpt.engines import Engine
from microgpt.errors import MicrogptError, NumericError, UsageError
from microgpt.feed import Feed
from microgpt.inference.language_model import LanguageModel

FORMATS: tuple[str, ...] = get_args(Data.model_fields["format"].annotation)
BLOCK_SECONDS = 0.1  # aimed-at time between two pauses


@dataclass(frozen=True)
class Evaluation:
    """The measures of a model on a text."""

    data: str  # the text that was measured
    format: str  # in which it was read
    read_as: str  # the same with the sizes of chunks, and how documents end
    documents: int
    bytes: int  # of the documents' text in UTF-8
    tokens: int  # scored targets: all tokens, and each document's last BOS
    loss: float  # mean nats per scored token
    perplexity: float  # exp(loss)
    bits_per_byte: float  # of a code for the whole text, see TextSize.bits
    nats_per_character: float  # of the same code
    unknown_bytes: int  # that the tokenizer does not know: spelled in that code where it has <unk>, else left out
    unknown_share: float  # of the text's bytes
    left_out: bool  # whether unknown text was left out
    samples: int
    verbatim: float | None  # share of the samples that occur in the training text
    not_measured: str | None = None  # why verbatim is None
    note: str | None = None


def held_out_loss(
    engine: Engine,
    state: Any,
    feeds: Iterable[Feed],
    pause: Callable[[], None] = lambda: None,
    agree: Callable[[int], int] = lambda number: number,
) -> tuple[float, int]:
    """The mean of -log probability over all scored targets of the feeds, in nats, and the number of targets.

    `pause` is called several times per second where the engine allows; it may end the evaluation by raising.
    `agree` makes one number of those that the clocks of several processes say.
    """
    nats, targets, size = 0.0, 0, 1
    for feed in feeds:
        losses: list[np.ndarray] = []
        first = 0
        while first < feed.n_steps:
            pause()
            start = time.perf_counter()
            losses.append(engine.loss(state, feed.part(first, first + size)))
            first += size
            size = agree(2 * size if time.perf_counter() - start < BLOCK_SECONDS / 2 else size)
        counts = np.array([feed.targets(step) for step in range(feed.n_steps)])
        nats += float(np.dot(np.concatenate(losses), counts))  # in one sum, so that it does not depend on the blocks
        targets += int(counts.sum())
    return nats / max(1, targets), targets


def evaluate(
    model: LanguageModel,
    path: str | None = None,
    *,
    format: str | None = None,
    samples: int = 100,
    seed: int = 42,
    unk: bool = False,
) -> Evaluation:
    """Measure a trained model on a file, else on the held-out text of its run, else on its training text.

    The text is read as the training text was, or a file in another `format`. `samples` texts are drawn and looked for
    in the training text. With `unk`, characters that the tokenizer does not know are its <unk>, or left out and not
    counted where it has none. Raises DataError for a text that cannot be used, UsageError for an unknown format.
    """
    config, tokenizer, data = model.config, model.tokenizer, model.config.data
    if format is not None and path is None:
        raise UsageError("--format: the run's own text is read as it was trained on; name another text with --data")
    if format not in (None, *FORMATS):
        raise UsageError(f"--format: must be one of {', '.join(FORMATS)}, got {format}")
    block = config.model.block_size
    trained_on: Corpus | None = None
    notes: list[str] = []
    try:
        training = load(data, block, tokenizer)
        trained_on = training.split(Random(config.run.seed), data.val_fraction or 0.0)
    except MicrogptError as error:
        if path is None and not data.val_path:
            raise
        notes.append(f"the training text cannot be read: {error}")
    other = path or data.val_path
    if other:
        options = {"path": other, "drop_duplicates": False, "unk": data.unk or unk}
        if path:
            options["format"] = format or _format(data, path)
        data = data.model_copy(update=options)
        measured = load(data, block, tokenizer)
        notes += [note for note in measured.documents.notes if LEFT_OUT in note]
        which, corpus = other, measured.held_out()
    else:
        assert trained_on
        measured = training
        which = f"{training.documents.source}, {'held out' if data.val_fraction else 'the training text itself'}"
        corpus = trained_on if data.val_fraction else training.held_out()
    loss, targets = held_out_loss(model.engine, model.state, corpus.held_out(block))
    if not math.isfinite(loss):
        raise NumericError(f"{model.path}: the loss on {which} is not finite ({loss}); the model cannot be measured")
    nats, size = loss * targets, corpus.held_out_size
    share, reason = None, None
    if not samples:
        reason = "no samples were asked for"
    elif not trained_on:
        reason = "the training text cannot be read"
    elif trained_on.example_prompt(Random(seed)):
        reason = "a chat model answers; its texts are no documents"
    else:
        texts = model.texts([tokenizer.bos], samples, model.sampling(), Random(seed))
        share = sum(trained_on.contains(["".join(pieces) for pieces in texts])) / samples
    return Evaluation(
        data=which,
        format=_formats(measured.documents),
        read_as=_read_as(measured.documents, data),
        documents=corpus.n_held_out,
        bytes=size.bytes,
        tokens=targets,
        loss=loss,
        perplexity=math.exp(min(loss, 700)),
        bits_per_byte=size.bits_per_byte(nats),
        nats_per_character=size.nats_per_character(nats),
        unknown_bytes=size.unknown_bytes,
        unknown_share=size.unknown_share,
        left_out=size.left_out,
        samples=samples,
        verbatim=share,
        not_measured=reason,
        note="; ".join(notes) or None,
    )


def _format(data: Data, path: str) -> str:
    """The run's format, but JSONL for a file of that name, and lines for another where the run read JSONL."""
    if data.format in ("auto", "chat"):
        return data.format
    if path.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        return "jsonl"
    return "lines" if data.format == "jsonl" else data.format


def _formats(text: Documents | Chats) -> str:
    return "chat" if isinstance(text, Chats) else ", ".join(text.formats)


def _read_as(text: Documents | Chats, data: Data) -> str:
    """How a text was read, in words."""
    if isinstance(text, Chats):
        return f"chat, {'the answers' if data.score == 'assistant' else 'all turns'} scored"
    found = _formats(text)
    if found == "chunks":
        found += f" of {data.chunk_size:,} characters, {data.overlap:,} of them shared with the next"
    if data.packing == "joined":
        return f"{found}, joined by BOS"
    return f"{found}, {'BOS' if data.trailing_bos else 'no BOS'} at the end of each"
