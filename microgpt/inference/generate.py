"""Logits → tokens → text: one sequence, many in turn, a batch, or one without end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

import numpy as np

from microgpt.engines import Engine
from microgpt.inference.sampling import Sampling, draw, probabilities
from microgpt.rng import from_numpy, to_numpy
from microgpt.tokenizers import Tokenizer


def generate_tokens(
    engine: Engine,
    state: Any,
    prompt: Sequence[int],
    max_length: int,
    sampling: Sampling,
    rng: Random,
    stop: int,
    *,
    never: Sequence[int] = (),
    allow_empty: bool = True,
) -> Iterator[int]:
    """The tokens after the prompt until `stop` is drawn or `max_length` positions are used, prompt included.

    Tokens of `never` are never drawn; without `allow_empty`, neither is `stop` as the first.
    """
    seen, cache = list(prompt), None
    fresh = np.array(seen, dtype=np.int32)
    while len(seen) <= max_length:
        logits, cache = engine.logits(state, fresh, cache)
        last = without(logits[-1], never if allow_empty or len(seen) > len(prompt) else [*never, stop])
        token = draw(probabilities(last, sampling, seen), rng)
        if token == stop:
            return
        yield token
        seen.append(token)
        fresh = np.array([token], dtype=np.int32)


def without(logits: np.ndarray, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """The logits (V,) with which none of the tokens is drawn: a copy where there are some."""
    if len(tokens):
        logits = logits.copy()
        logits[np.asarray(tokens)] = -np.inf
    return logits


MAX_TEMPERATURE = 1e6  # above it, and below its inverse, the fast path could overflow


def _fast_path(engine: Engine, sampling: Sampling) -> Any:
    """The engine's fast path, where it has one for this sampling, or None."""
    temperature = sampling.temperature
    usual = temperature == 0 or 1 / MAX_TEMPERATURE <= temperature <= MAX_TEMPERATURE
    return engine.generate if usual and sampling == Sampling(temperature) else None


DRAWS_PER_CALL = 1 << 18  # maximum of random numbers per call of the fast path
CALL_SECONDS = 0.1  # which a call should take
GROWTH = 32  # of the number of sequences, from one call to the next: a short call tells little


def generate_many(
    engine: Engine,
    state: Any,
    prompt: Sequence[int],
    n: int,
    max_length: int,
    sampling: Sampling,
    rng: Random,
    stop: int,
) -> Iterator[Iterable[int]]:
    """The sequences of n calls of `generate_tokens` in turn, several per call where the engine has a fast path.

    Read each to its end before the next, and all of them: `rng` may be ahead of the tokens handed out.
    """
    most = max_length + 1 - len(prompt)
    generate = _fast_path(engine, sampling) if most > 0 else None
    if generate is None:
        yield from (generate_tokens(engine, state, prompt, max_length, sampling, rng, stop) for _ in range(n))
        return
    count, each = 1, float(most)  # sequences per call, random numbers per sequence
    while n > 0:
        began, count = time.perf_counter(), min(n, count)
        generator, spare = to_numpy(rng), rng.getstate()[2]
        here = generator.get_state()
        uniform = generator.random_sample(most + int(count * each))
        found, ends, used = generate(state, *_alike(prompt, count), max_length, sampling.temperature, uniform, stop)
        generator.set_state(here)
        generator.random_sample(used)
        from_numpy(rng, generator, spare)
        written, places = found.tolist(), ends.tolist()
        n, each = n - len(places) + 1, used / (len(places) - 1)
        growth = min(GROWTH, CALL_SECONDS / (time.perf_counter() - began))
        count = max(1, min(int(count * growth), DRAWS_PER_CALL // most))
        yield from (written[a:b] for a, b in itertools.pairwise(places))


def generate_batch(
    engine: Engine, state: Any, prompt: Sequence[int], n: int, max_length: int, sampling: Sampling, seed: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """n sequences of `generate_tokens`, each with its own random numbers, as one batch on the engine's fast path.

    Returns all tokens, int, and their offsets (n + 1,): sequence i is tokens[offsets[i]:offsets[i + 1]]. A sequence
    depends on the seed, its number and max_length alone, not on the others.
    """
    uniform = np.random.Generator(np.random.Philox(key=seed)).random((n, max_length))
    if n and (generate := _fast_path(engine, sampling)):
        found, ends, _ = generate(state, *_alike(prompt, n), max_length, sampling.temperature, uniform, stop)
        return found, ends
    each = [list(generate_tokens(engine, state, prompt, max_length, sampling, _Given(row), stop)) for row in uniform]
    flat = np.array([token for sequence in each for token in sequence], dtype=np.int32)
    return flat, np.cumsum([0, *map(len, each)])


def _alike(prompt: Sequence[int], n: int) -> tuple[np.ndarray, np.ndarray]:
    """The prompt n times, and the offsets (n + 1,), as the fast path takes them."""
    return np.tile(np.array(prompt, dtype=np.int32), n), np.arange(n + 1) * len(prompt)


class _Given(Random):
    """A generator that returns given numbers."""

    def __init__(self, numbers: np.ndarray) -> None:
        super().__init__(0)
        self.numbers = iter(numbers.tolist())

    def random(self) -> float:
        """The next number."""
        return float(next(self.numbers))


def generate_endless(
    engine: Engine,
    state: Any,
    prompt: Sequence[int],
    block_size: int,
    sampling: Sampling,
    rng: Random,
    bos: int,
    *,
    keep: int = 0,
    restart: bool = False,
) -> Iterator[int]:
    """The tokens after the prompt, past the end of documents: BOS is among them, but never twice in a row.

    With `restart` each BOS begins a new context, as in training where a row holds one document. Without `keep` there
    are as many tokens as the context has room for after the prompt. With `keep` they never end: a full context is
    followed by one that begins with BOS and the last `keep` tokens.
    """
    context, cache = list(prompt), None
    fresh = context
    left = block_size + 1 - len(prompt)
    while keep or left > 0:
        logits, cache = engine.logits(state, np.array(fresh, dtype=np.int32), cache)
        last = np.array(logits[-1], dtype=np.float64)
        if context[-1] == bos:
            last[bos] = -np.inf
        token = draw(probabilities(last, sampling, context), rng)
        yield token
        left -= 1
        context.append(token)
        fresh = [token]
        if restart and token == bos:
            fresh = context = [bos]
            cache = None
        elif keep and len(context) > block_size:
            kept = context[-keep:]
            fresh = context = kept if kept[0] == bos else [bos, *kept]
            cache = None


def decode_stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens in pieces of whole characters."""
    stream = tokenizer.stream()
    for token in tokens:
        if piece := stream.feed([token]):
            yield piece
    if rest := stream.end():
        yield rest


def stop_at(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text of `pieces` up to the first of `stops`; a possible beginning of one is held back."""
    text = UntilStop(stops)
    for piece in pieces:
        if released := text.feed(piece):
            yield released
        if text.stopped:
            return
    if rest := text.end():
        yield rest


class UntilStop:
    """A text in pieces, up to the first of `stops`; a possible beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.stopped = False  # whether one of them came

    def feed(self, piece: str) -> str:
        """The text that can be released after another piece."""
        if not self._stops:
            return piece
        held = self._held + piece
        ends = [at for at in (held.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return held[: min(ends)]
        safe = len(held) - max(_overlap(held, stop) for stop in self._stops)
        self._held = held[safe:]
        return held[:safe]

    def end(self) -> str:
        """The text that was held back."""
        return self._held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
