"""microgpt generate"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands import Switch
from microgpt.commands.flags import EngineFlags, Flags, SamplingFlags, require
from microgpt.commands.selection import checkpoint_json, say_checkpoint
from microgpt.errors import DataError, UsageError
from microgpt.limits import MAX_COUNT
from microgpt.terminal import SampleWriter, compiling, output_json, say


def generate(
    run: Path,
    *others: Path,
    prompt: Annotated[str | None, Parameter(alias="-p", allow_leading_hyphen=True)] = None,
    prompt_file: Path | None = None,
    num_samples: Annotated[int, Parameter(alias="-n")] = 20,
    sampling: Annotated[SamplingFlags, Flags] = SamplingFlags(),
    stop_at_bos: bool = True,
    chain: Switch = False,
    max_chars: int | None = None,
    chain_context: int | None = None,
    engine: Annotated[EngineFlags, Flags] = EngineFlags(),
    json: Switch = False,
) -> None:
    """Generate text. A prompt is continued.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    others
        More of them with the same tokenizer; the probabilities of a token are averaged.
    prompt
        Text to continue; - reads it from standard input.
    prompt_file
        File with one prompt per line; lines that begin with # are comments.
    num_samples
        Samples per prompt.
    stop_at_bos
        End where a document ends; otherwise continue with the next one, up to as many tokens as the context has.
    chain
        Continue past the end of the context, until --max-chars.
    max_chars
        With --chain: number of new characters (default: 2000).
    chain_context
        With --chain: tokens of the old context that the next one begins with (default: half of it).
    json
        Print one JSON object with all texts.
    """
    from microgpt.inference.language_model import LanguageModel

    require("--num-samples", num_samples, 1, MAX_COUNT)
    if max_chars is not None:
        require("--max-chars", max_chars, 1, MAX_COUNT)
    model, notes = LanguageModel.open_all([run, *others], **vars(engine), progress=compiling())
    for note in notes:
        say(f"note    {note}")
    say_checkpoint(model.selection)
    options: dict[str, Any] = {"max_tokens": sampling.max_tokens, "stops": sampling.stops}
    options |= {"endless": chain or not stop_at_bos, "live": sys.stdout.isatty()}
    options |= _chain(chain, max_chars, chain_context, sampling.max_tokens, model.config.model.block_size)
    chosen = sampling.of(model)
    seed = sampling.new_seed()
    rng, writer, results = model.rng(seed), SampleWriter(), []
    for text in _prompts(prompt, prompt_file):
        tokens, dropped = model.encode(text)
        if dropped:
            say(f"note    the prompt is longer than the context: its first {dropped} tokens are left out")
        for pieces in model.texts(tokens, num_samples, chosen, rng, **options):
            if json:
                results.append({"prompt": text, "text": "".join(pieces), "tokens_dropped": dropped})
                continue
            writer.write(itertools.chain([text], pieces), live=options["live"])
    if json:
        used = checkpoint_json(model.selection)
        output_json(
            {"model": str(model.path), "checkpoint": used, "seed": "run" if seed is None else seed, "samples": results}
        )
    sampling.say_seed(seed, chosen)


def _chain(
    chain: bool, max_chars: int | None, chain_context: int | None, max_tokens: int | None, block_size: int
) -> dict[str, int | None]:
    """The length of a chain, as LanguageModel.texts takes it. Raises UsageError with the flag and its limits."""
    if not chain:
        for flag, value in (("--max-chars", max_chars), ("--chain-context", chain_context)):
            if value is not None:
                raise UsageError(f"{flag}: belongs to --chain; give both, or use --max-tokens")
        return {}
    most = block_size - 2
    if most < 1:
        raise UsageError(f"--chain: a context of {block_size} tokens is too short to keep a part of it")
    keep = max(1, min(most, block_size // 2)) if chain_context is None else chain_context
    if not 1 <= keep <= most:
        raise UsageError(f"--chain-context: must be 1 to {most} (the context less 2), got {keep}")
    if max_tokens is None and max_chars is None:
        max_chars = 2000
    return {"max_chars": max_chars, "keep": keep}


def _prompts(prompt: str | None, prompt_file: Path | None) -> list[str]:
    """The prompts that are given; one empty prompt if none is."""
    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --prompt-file: give one of them")
    if prompt_file is not None:
        from microgpt.data.sources import read_text

        found = [line for line in read_text(prompt_file).split("\n") if line.strip() and not line.startswith("#")]
        if not found:
            raise DataError(f"{prompt_file}: has no prompt; expected one per line")
        return found
    return [sys.stdin.read().rstrip("\n") if prompt == "-" else prompt or ""]
