"""microgpt generate"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from microgpt.commands.terminal import compiling, for_stdout, say
from microgpt.errors import DataError, UsageError
from microgpt.inference.sampling import Sampling


def generate(
    run: Path,
    *,
    prompt: Annotated[str | None, Parameter(alias="-p", allow_leading_hyphen=True)] = None,
    prompt_file: Path | None = None,
    num_samples: Annotated[int, Parameter(alias="-n")] = 20,
    temperature: Annotated[float | None, Parameter(alias="--temp")] = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    max_tokens: Annotated[int | None, Parameter(alias="--max-new-tokens")] = None,
    stop: Annotated[list[str] | None, Parameter(negative="")] = None,
    stop_at_bos: bool = True,
    chain: Annotated[bool, Parameter(negative="")] = False,
    max_chars: int | None = None,
    chain_context: int | None = None,
    seed: int | None = None,
    engine: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Let a model write. A prompt is continued.

    Parameters
    ----------
    run
        A run, checkpoint or exported folder.
    prompt
        The text to continue; - reads it from standard input.
    prompt_file
        A file with a prompt a line; lines that begin with # are comments.
    num_samples
        How many texts to write, a prompt.
    temperature
        0 always takes the likeliest token; higher is bolder (default: the model's, mostly 0.5).
    top_k
        Choose among this many likeliest tokens; 0 is off.
    top_p
        Choose among the likeliest tokens that hold this much probability; 1 is off.
    min_p
        Choose among tokens at least this likely relative to the likeliest; 0 is off.
    repetition_penalty
        Make tokens that occurred less likely; 1 is off.
    max_tokens
        The most new tokens (default: what the context holds).
    stop
        End a text before this; may be given several times.
    stop_at_bos
        End where a document ends; otherwise go on with the next one, to the end of the context.
    chain
        Go on over the end of the context, until --max-chars.
    max_chars
        With --chain: how many new characters (default 2000).
    chain_context
        With --chain: tokens of the old context that the next one begins with (default: half of it).
    seed
        The seed of the draws (default: go on with the run's own generator; 42 where the model has none).
    engine
        The engine, or auto.
    dtype
        What it computes in, or auto.
    device
        Where it computes, or auto.
    json
        Print one JSON object with all texts.
    """
    from microgpt.inference.language_model import LanguageModel

    sampling = check(temperature, top_k, top_p, min_p, repetition_penalty, num_samples, max_tokens, stop)
    model = LanguageModel.open(run, engine=engine, dtype=dtype, device=device, progress=compiling())
    if temperature is None:
        sampling = dataclasses.replace(sampling, temperature=model.config.run.temperature)
    rng = model.rng(seed)
    endless = _endless(chain, max_chars, chain_context, max_tokens, model.config.model.block_size)
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "stops": stop or [],
        "endless": chain or not stop_at_bos,
        **endless,
    }
    live = sys.stdout.isatty()
    results = []
    for text in _prompts(prompt, prompt_file):
        tokens, dropped = model.encode(text)
        if dropped:
            say(f"note    the prompt is longer than the context: its first {dropped} tokens are left out")
        for pieces in model.texts(tokens, num_samples, sampling, rng, live=live, **options):
            if json:
                results.append({"prompt": text, "text": "".join(pieces), "tokens_dropped": dropped})
                continue
            print(text, end="")
            for piece in pieces:
                print(for_stdout(piece), end="", flush=live)
            print()
    if json:
        print(jsonlib.dumps({"model": str(model.path), "samples": results}, ensure_ascii=False))


def check(
    temperature: float | None,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    num_samples: int,
    max_tokens: int | None,
    stop: list[str] | None,
) -> Sampling:
    """The sampling that the flags ask for. Raises UsageError with the flag and its limits."""
    for flag, value, good, limits in (
        ("--temperature", temperature, temperature is None or 0 <= temperature < float("inf"), "0 or more"),
        ("--top-k", top_k, top_k >= 0, "0 (off) or more"),
        ("--top-p", top_p, 0 < top_p <= 1, "above 0, up to 1 (off)"),
        ("--min-p", min_p, 0 <= min_p <= 1, "0 (off) to 1"),
        ("--repetition-penalty", repetition_penalty, 0 < repetition_penalty < float("inf"), "above 0; 1 is off"),
        ("--num-samples", num_samples, num_samples > 0, "1 or more"),
        ("--max-tokens", max_tokens, max_tokens is None or max_tokens > 0, "1 or more"),
        ("--stop", "''", "" not in (stop or []), "some text"),  # every text holds the empty one, at its begin
    ):
        if not good:
            raise UsageError(f"{flag}: must be {limits}, got {value}")
    return Sampling(0.5 if temperature is None else temperature, top_k, top_p, min_p, repetition_penalty)


def _endless(
    chain: bool, max_chars: int | None, chain_context: int | None, max_tokens: int | None, block_size: int
) -> dict[str, int | None]:
    """The end of a chain, as `LanguageModel.texts` takes it. Raises UsageError with the flag and its limits."""
    if not chain:
        for flag, value in (("--max-chars", max_chars), ("--chain-context", chain_context)):
            if value is not None:
                raise UsageError(f"{flag}: belongs to --chain; give both, or use --max-tokens")
        return {}
    if max_chars is not None and max_chars < 1:
        raise UsageError(f"--max-chars: must be 1 or more, got {max_chars}")
    most = block_size - 2
    if most < 1:
        raise UsageError(
            f"--chain: a context of {block_size} tokens is too short to keep a part of; train a longer one"
        )
    keep = max(1, min(most, block_size // 2)) if chain_context is None else chain_context
    if not 1 <= keep <= most:
        raise UsageError(f"--chain-context: must be 1 to {most} (the context less 2), got {keep}")
    if max_tokens is None and max_chars is None:
        max_chars = 2000
    return {"max_chars": max_chars, "keep": keep}


def _prompts(prompt: str | None, prompt_file: Path | None) -> list[str]:
    """The prompts asked for; one empty one if none is."""
    if prompt is not None and prompt_file is not None:
        raise UsageError("--prompt and --prompt-file: give one of them")
    if prompt_file is not None:
        from microgpt.data.sources import read_text

        found = [line for line in read_text(prompt_file).split("\n") if line.strip() and not line.startswith("#")]
        if not found:
            raise DataError(f"{prompt_file}: no prompt in it; expected one a line")
        return found
    return [sys.stdin.read().rstrip("\n") if prompt == "-" else prompt or ""]
