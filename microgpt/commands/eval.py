"""microgpt eval"""

from __future__ import annotations

import dataclasses
import json as jsonlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from microgpt.commands.terminal import compiling, say


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    samples: int = 100,
    seed: int = 42,
    engine: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure how well a model predicts text: loss, perplexity, bits per byte.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    data
        The text to measure on: a file, folder or glob (default: what the run held out, else its training text).
    samples
        How many texts to draw and look for in the training text; 0 leaves that out.
    seed
        The seed of the draws.
    engine
        The engine, or auto.
    dtype
        What it computes in, or auto.
    device
        Where it computes, or auto.
    json
        Print one JSON object.
    """
    from microgpt.errors import UsageError
    from microgpt.inference.evaluate import evaluate as measure
    from microgpt.inference.language_model import LanguageModel

    if samples < 0:
        raise UsageError(f"--samples: must be 0 (off) or more, got {samples}")
    model = LanguageModel.open(run, engine=engine, dtype=dtype, device=device, progress=compiling())
    result = measure(model, data, samples=samples, seed=seed)
    if result.note:
        say(f"note    {result.note}")
    if json:
        print(jsonlib.dumps(dataclasses.asdict(result), ensure_ascii=False))
        return
    share = "unknown" if result.verbatim is None else f"{result.verbatim:.0%} of {result.samples}"
    for name, value in (
        ("data", f"{result.data}: {result.documents:,} documents, {result.bytes:,} bytes, {result.tokens:,} tokens"),
        ("loss", f"{result.loss:.4f} nats a token"),
        ("perplexity", f"{result.perplexity:.3f}"),
        ("bits per byte", f"{result.bits_per_byte:.4f}"),
        ("samples verbatim in the training text", share),
    ):
        print(f"{name:37}  {value}")
