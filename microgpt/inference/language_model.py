"""A trained model that writes: what the terminal, the server and Python programs use."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from microgpt.config import Config
from microgpt.engines import Engine
from microgpt.engines.common.hardware import watch_compiler
from microgpt.engines.ladder import choose
from microgpt.errors import CheckpointError, DataError
from microgpt.inference.generate import (
    decode_stream,
    generate_endless,
    generate_many,
    generate_tokens,
    stop_at,
)
from microgpt.inference.sampling import Sampling
from microgpt.progress import ProgressCallback, no_progress
from microgpt.runs import checkpoint
from microgpt.tokenizers import Tokenizer

DTYPES = {"F64": "float64", "F32": "float32"}


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model on an engine, with its tokenizer."""

    path: Path
    config: Config
    tokenizer: Tokenizer
    engine: Engine
    state: Any
    generator: Any  # the run's generator after the first values were drawn, or None

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        engine: str = "auto",
        dtype: str = "auto",
        device: str = "auto",
        progress: ProgressCallback = no_progress,
    ) -> LanguageModel:
        """A model from a run, checkpoint or exported folder, in the numbers it was trained in unless asked.

        `progress` reports the kernels that are compiled first, as in microgpt.engines.common.hardware.watch_compiler.
        Raises CheckpointError if the folder is damaged, UsageError if the engine cannot do what is asked.
        """
        saved = checkpoint.read(Path(path))
        weights = saved.weights()
        if dtype == "auto" and engine == "auto":
            dtype = str(weights["wte"].dtype)
        model, optim = saved.config.model, saved.config.optim
        choice = choose(model, optim, name=engine, dtype=dtype, device=device)
        with watch_compiler(choice.name, progress):
            built = choice.build(model, optim, threads=saved.config.run.threads)
        return cls(saved.path, saved.config, saved.tokenizer, built, built.load(weights), saved.state.get("generator"))

    def rng(self, seed: int | None = None) -> Random:
        """The source of draws: a fresh one of a seed, else the run's own where it stood before the training."""
        if seed is not None or self.generator is None:
            return Random(42 if seed is None else seed)
        rng = Random()
        try:
            version, keys, spare = self.generator
            rng.setstate((version, tuple(keys), spare))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path}/trainer/state.json: not the state of a generator ({error})") from None
        return rng

    def default_sampling(self, sampling: Sampling) -> Sampling:
        """The same at the temperature that the model was configured with."""
        return dataclasses.replace(sampling, temperature=self.config.run.temperature)

    def encode(self, prompt: str) -> tuple[list[int], int]:
        """BOS and the prompt's tokens, and how many of the first were dropped so that a quarter of the context
        stays free for the answer. Raises DataError for a character that the model does not know."""
        try:
            found = self.tokenizer.encode(prompt).tolist()
        except DataError as error:
            raise DataError(f"prompt: {error}", error.code) from None
        block = self.config.model.block_size
        if len(found) < block:
            return [self.tokenizer.bos, *found], 0
        kept = max(0, block - 1 - max(1, block // 4))
        return [self.tokenizer.bos, *found[len(found) - kept :]], len(found) - kept

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        rng: Random,
        *,
        max_tokens: int | None = None,
        stops: Sequence[str] = (),
    ) -> Iterator[str]:
        """The text after the prompt's tokens, piece by piece, until BOS, a stop, max_tokens or a full context."""
        max_length = self.config.model.block_size
        if max_tokens is not None:
            max_length = min(max_length, len(prompt) + max_tokens - 1)
        drawn = generate_tokens(self.engine, self.state, prompt, max_length, sampling, rng, self.tokenizer.bos)
        return stop_at(decode_stream(self.tokenizer, drawn), stops)

    def many(
        self, prompt: Sequence[int], n: int, sampling: Sampling, rng: Random, *, max_tokens: int | None = None
    ) -> Iterator[str]:
        """What `stream` gives n times in turn, each text whole; see `generate_many`."""
        max_length = self.config.model.block_size
        if max_tokens is not None:
            max_length = min(max_length, len(prompt) + max_tokens - 1)
        drawn = generate_many(self.engine, self.state, prompt, n, max_length, sampling, rng, self.tokenizer.bos)
        return ("".join(decode_stream(self.tokenizer, each)) for each in drawn)

    def prose(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        rng: Random,
        *,
        keep: int = 0,
        max_tokens: int | None = None,
        max_chars: int | None = None,
        stops: Sequence[str] = (),
    ) -> Iterator[str]:
        """The text after the prompt's tokens past the end of documents, which are set apart as in the training text,
        until a stop, max_tokens, max_chars or, with keep 0, a full context; else each next one begins with the last
        `keep` tokens."""
        drawn = generate_endless(
            self.engine,
            self.state,
            prompt,
            self.config.model.block_size,
            sampling,
            rng,
            self.tokenizer.bos,
            keep=keep,
        )
        pieces = stop_at(self._documents(itertools.islice(drawn, max_tokens)), stops)
        left = max_chars
        for piece in pieces:
            yield piece[:left]
            if left is not None and (left := left - len(piece)) <= 0:
                return

    def _documents(self, drawn: Iterator[int]) -> Iterator[str]:
        """Tokens as text, BOS as what stands between documents of the run's format."""
        between = {"chunks": "", "paragraphs": "\n\n"}.get(self.config.data.format, "\n")
        stream = self.tokenizer.stream()
        for token in drawn:
            if token == self.tokenizer.bos:
                yield stream.end() + between
                stream = self.tokenizer.stream()
            else:
                yield stream.feed([token])
        yield stream.end()

    def generate(
        self, prompt: str = "", *, seed: int | None = None, max_tokens: int | None = None, **sampling: Any
    ) -> Iterator[str]:
        """The continuation of a text, piece by piece: `"".join(model.generate("em", temperature=0.8))`."""
        chosen = Sampling(**{"temperature": self.config.run.temperature, **sampling})
        return self.stream(self.encode(prompt)[0], chosen, self.rng(seed), max_tokens=max_tokens)
