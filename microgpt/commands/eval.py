"""microgpt eval"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from microgpt.commands import Switch
from microgpt.commands.flags import EngineFlags, Flags, require
from microgpt.commands.selection import checkpoint_json, say_checkpoint
from microgpt.limits import MAX_SEED
from microgpt.terminal import compiling, output, output_json, say


def evaluate(
    run: Path,
    *others: Path,
    data: str | None = None,
    format: str | None = None,
    unk: Switch = False,
    samples: int = 100,
    seed: int = 42,
    engine: Annotated[EngineFlags, Flags] = EngineFlags(),
    json: Switch = False,
) -> None:
    """Measure how well a model predicts text: loss, perplexity, bits per byte, nats per character.

    Bits are those of a code for the whole text: text that the tokenizer does not know is spelled, 8 bits per byte and
    8 at its end, after the <unk> that stands for it.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    others
        More of them with the same tokenizer; the probabilities of a token are averaged.
    data
        Text to measure on: a file, folder or glob (default: the run's held-out text, else its training text).
    format
        Format of --data: lines, paragraphs, chunks, jsonl, chat or auto (default: that of the training text).
    unk
        Leave out characters that the tokenizer does not know; one trained with --unk has a token for them.
    samples
        Number of texts to draw and look for in the training text; 0 is off.
    seed
        Seed of the draws.
    json
        Print one JSON object.
    """
    from microgpt.inference.evaluate import evaluate as measure
    from microgpt.inference.language_model import LanguageModel

    require("--samples", samples, 0, 10**6, " (off)")
    require("--seed", seed, -MAX_SEED, MAX_SEED)
    model, notes = LanguageModel.open_all([run, *others], **vars(engine), progress=compiling())
    for note in notes:
        say(f"note    {note}")
    say_checkpoint(model.selection)
    result = measure(model, data, format=format, samples=samples, seed=seed, unk=unk)
    if result.note:
        say(f"note    {result.note}")
    if json:
        output_json({**dataclasses.asdict(result), "checkpoint": checkpoint_json(model.selection)})
        return
    share = f"not measured: {result.not_measured}"
    if result.verbatim is not None:
        share = f"{result.verbatim:.0%} of {result.samples}"
    unknown = f"{result.unknown_share:.1%} of the bytes"
    if result.unknown_bytes:
        unknown += ", left out" if result.left_out else ", spelled at 8 bits per byte and 8 at the end of each part"
    for name, value in (
        ("data", f"{result.data}: {result.documents:,} documents, {result.bytes:,} bytes, {result.tokens:,} tokens"),
        ("read as", result.read_as),
        ("loss", f"{result.loss:.4f} nats per token"),
        ("perplexity", f"{result.perplexity:.3f}"),
        ("bits per byte", f"{result.bits_per_byte:.4f}"),
        ("nats per character", f"{result.nats_per_character:.4f}"),
        ("unknown to the tokenizer", unknown),
        ("samples verbatim in the training text", share),
    ):
        output(f"{name:37}  {value}")
