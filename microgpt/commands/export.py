"""microgpt export"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microgpt.commands import Switch
from microgpt.commands.selection import CheckpointFlag, say_checkpoint
from microgpt.errors import MicrogptError, UsageError

if TYPE_CHECKING:
    from microgpt.runs.checkpoint import Checkpoint


def export(
    run: Path,
    *others: Path,
    to: str,
    out: Path | None = None,
    checkpoint: CheckpointFlag = None,
    half: Switch = False,
    bf16: Switch = False,
    int8: Switch = False,
    custom_code: Switch = False,
    merge: Switch = False,
    data: Path | None = None,
    quality: bool = True,
    json: Switch = False,
) -> None:
    """Export a model for other programs.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    others
        With --to html, more of them with the same tokenizer; the probabilities of a token are averaged.
    to
        safetensors (microgpt's), kgx, moonbase (muchq), hf (transformers), gguf (llama.cpp), onnx or html (a page).
    out
        The file or folder to write (default: named after the model, in the current folder).
    half
        Store numbers in 16 bits (float16).
    bf16
        Store numbers in 16 bits with float32's range (bfloat16).
    int8
        Store numbers in 8 bits, with a scale per row.
    custom_code
        With --to hf: write the model's class beside the weights, for a model that transformers has no class for.
    merge
        Require adapters (finetune --lora-rank). They are merged into the matrices: no format keeps them apart.
    data
        A text to measure the quality on (default: the held-out text of the run, else its training text).
    quality
        With fewer bits: measure their cost in loss and bits per byte.
    json
        Print the result as one JSON object.
    """
    from microgpt.formats import export as write
    from microgpt.terminal import output, output_json, say

    chosen = [name for name, given in (("float16", half), ("bfloat16", bf16), ("int8", int8)) if given]
    if len(chosen) > 1:
        raise UsageError("--half, --bf16 and --int8: give one of them")
    measured: dict[str, Any] = {}

    def measure(models: Sequence[Checkpoint], storage: str) -> None:
        say_checkpoint(models[0].selection)
        if quality and storage in ("float16", "bfloat16", "int8"):
            measured.update(_quality(models, to, storage, data))

    stored = chosen[0] if chosen else None
    options: dict[str, Any] = {"storage": stored, "custom_code": custom_code, "merge": merge, "others": others}
    done = write(run, to, out, which=checkpoint, measure=measure, **options)
    facts = {**dataclasses.asdict(done), "path": str(done.path), **measured}
    if json:
        output_json(facts)
        return
    output(done.path)
    say(f"wrote   {done.to}, {done.storage}, {done.bytes:,} bytes")
    for row in facts.get("quality", []):
        say(f"quality {row['storage']:<9} loss {row['loss']:.5f}   {row['bits_per_byte']:.5f} bits per byte")
    if "quality_on" in facts:
        say(f"quality was measured on {facts['quality_on']}")
    for note in done.notes:
        say(f"note    {note}")


def _quality(models: Sequence[Checkpoint], to: str, stored: str, data: Path | None) -> dict[str, Any]:
    from microgpt.formats.quality import table

    try:
        rows, about = table(models[0], [stored], str(data) if data else None, to, models[1:])
    except (MicrogptError, OSError) as error:
        if data is not None:
            raise
        return {"quality": [], "quality_on": f"nothing: the text was not found; name one with --data ({error})"}
    return {"quality": rows, "quality_on": about}
