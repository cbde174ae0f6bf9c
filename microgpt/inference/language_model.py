"""A trained model that generates text: the one stream that terminal, training, server and Python programs share."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Self

from microgpt.config import Config
from microgpt.engines import Engine
from microgpt.engines.common.compiling import watch_compiler
from microgpt.engines.ensemble import Ensemble
from microgpt.engines.ladder import choose
from microgpt.errors import CheckpointError, DataError
from microgpt.inference.generate import decode_stream, generate_endless, generate_many, generate_tokens, stop_at
from microgpt.inference.sampling import Sampling
from microgpt.model import n_params
from microgpt.progress import ProgressCallback, no_progress
from microgpt.runs import checkpoint as checkpoints
from microgpt.tokenizers import Tokenizer

# the keys of data that decide which text is held out
HELD_OUT = {"dataset", "path", "val_path", "val_fraction", "val_split", "split_seed"}


class Completion(Iterator[str]):
    """A text that is generated while it is read: iterate over it, once, for its pieces."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokens: Iterator[int],
        *,
        prompt_tokens: int,
        max_length: int,
        stops: Sequence[str] = (),
        tokens_dropped: int = 0,
    ) -> None:
        self.prompt_tokens = prompt_tokens  # BOS included
        self.tokens_dropped = tokens_dropped  # at the front of a prompt that was too long
        self.completion_tokens = 0  # so far, without the one that ends the text
        self.finish_reason: str | None = None  # "stop": the model or a stop ended it; "length": max_length did
        self.text = ""  # so far
        self._max_length = max_length
        self._pieces = stop_at(decode_stream(tokenizer, self._counted(tokens)), stops)

    def _counted(self, tokens: Iterator[int]) -> Iterator[int]:
        for token in tokens:
            self.completion_tokens += 1
            yield token
        if self.prompt_tokens + self.completion_tokens > self._max_length:
            self.finish_reason = "length"

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self.finish_reason = self.finish_reason or "stop"
            raise
        self.text += piece
        return piece

    def read(self) -> str:
        """The whole text."""
        for _ in self:
            pass
        return self.text


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model on an engine, with its tokenizer."""

    path: Path
    config: Config
    tokenizer: Tokenizer
    engine: Engine
    state: Any
    generator: Any = None  # the state of the run's generator before training, if it is known
    selection: checkpoints.Selection | None = None  # which checkpoint of a run it is
    members: tuple[LanguageModel, ...] = ()  # of an ensemble

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        checkpoint: str | int | None = None,
        engine: str = "auto",
        dtype: str = "auto",
        device: str = "auto",
        progress: ProgressCallback = no_progress,
    ) -> Self:
        """A model from a run, checkpoint or exported folder, in the dtype it was trained in unless another is given.

        `checkpoint` of a run is "last", "best" or a step; by default the best where it was kept, else the last.
        `progress` reports the kernels that are compiled, see microgpt.engines.common.compiling.
        Raises CheckpointError if the folder is damaged or has no such checkpoint, UsageError if the engine does not
        have what is asked.
        """
        saved = checkpoints.read(Path(path), checkpoint, weights=True)
        weights = saved.weights()
        if dtype == "auto" and engine == "auto":
            dtype = str(weights["wte"].dtype)
        model, optim = saved.config.model, saved.config.optim
        choice = choose(model, optim, name=engine, dtype=dtype, device=device)
        with watch_compiler(progress):
            built = choice.build(model, optim, threads=saved.config.run.threads)
        generator, selection = saved.state.get("generator"), saved.selection
        return cls(saved.path, saved.config, saved.tokenizer, built, built.load(weights), generator, selection)

    @classmethod
    def open_all(cls, paths: Sequence[Path | str], **options: Any) -> tuple[Self, list[str]]:
        """Several models as one, whose probabilities are the mean of theirs, and notes on them; one model as `open`.

        The context is the shortest of theirs; all else is configured as in the first. `options` are those of `open`.
        Raises CheckpointError for models whose tokenizers differ, and as `open`.
        """
        members = list(map(partial(cls.open, **options), paths))
        first = members[0]
        if len(members) == 1:
            return first, []
        checkpoints.require_same_tokenizer((member.path, member.tokenizer) for member in members)
        block = min(member.config.model.block_size for member in members)
        config = first.config.replace(model={"block_size": block})
        parts = [member.config.data.model_dump(include=HELD_OUT) for member in members]
        notes = [
            f"{member.path} held out other text than {first.path}, and may have been trained on that one's"
            for member, part in zip(members, parts, strict=True)
            if part != parts[0]
        ]
        engine, states = Ensemble([member.engine for member in members]), [member.state for member in members]
        path = Path(" + ".join(str(member.path) for member in members))
        return cls(path, config, first.tokenizer, engine, states, members=tuple(members)), notes

    @property
    def n_params(self) -> int:
        """The number of parameters, of all members of an ensemble together."""
        return sum(member.n_params for member in self.members) or n_params(self.config.model)

    def rng(self, seed: int | None = None) -> Random:
        """The generator to draw with: a new one from a seed, else the run's own as it was before training."""
        if seed is not None or self.generator is None:
            return Random(42 if seed is None else seed)
        try:
            return checkpoints.to_rng(self.generator)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{self.path}/trainer/state.json: not the state of a generator ({error})") from None

    def sampling(self, **options: Any) -> Sampling:
        """A Sampling with these options, at the temperature that the model is configured with unless one is given."""
        return Sampling(**{"temperature": self.config.run.temperature, **options})

    def encode(self, prompt: str) -> tuple[list[int], int]:
        """BOS and the prompt's tokens, and how many of the first were dropped.

        Tokens are dropped from a prompt that does not leave a quarter of the context free.
        Raises DataError for a character that the tokenizer does not know.
        """
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
        stop_token: int | None = None,
        never: Sequence[int] = (),
        allow_empty: bool = True,
        stops: Sequence[str] = (),
        tokens_dropped: int = 0,
    ) -> Completion:
        """The text after the prompt's tokens, until the stop token (BOS), a stop, max_tokens or a full context.

        Tokens of `never` are never drawn; without `allow_empty`, neither is the stop token as the first.
        """
        max_length = self.max_length(prompt, max_tokens)
        stop = self.tokenizer.bos if stop_token is None else stop_token
        drawn = generate_tokens(
            self.engine, self.state, prompt, max_length, sampling, rng, stop, never=never, allow_empty=allow_empty
        )
        return Completion(
            self.tokenizer,
            drawn,
            prompt_tokens=len(prompt),
            max_length=max_length,
            stops=stops,
            tokens_dropped=tokens_dropped,
        )

    def texts(
        self,
        prompt: Sequence[int],
        n: int,
        sampling: Sampling,
        rng: Random,
        *,
        max_tokens: int | None = None,
        stops: Sequence[str] = (),
        endless: bool = False,
        keep: int = 0,
        max_chars: int | None = None,
        live: bool = False,
    ) -> Iterator[Iterator[str]]:
        """n texts after the same prompt, each in pieces; read each to its end before the next.

        They are those of `stream`, one after another; where an engine generates several per call, a text is one
        piece, unless `live` asks for each piece as soon as its tokens are drawn. An `endless` text goes on past the
        end of documents, where a new context begins if rows of training held one document, and past the end of the
        context where `keep` tokens of it begin the next one; it ends with max_tokens, max_chars, as many tokens
        without a character as the context has, or, with keep 0, as many tokens as fit in the context.
        """
        if endless:
            return (self._endless(prompt, sampling, rng, max_tokens, max_chars, keep, stops) for _ in range(n))
        if n == 1 or live or stops:
            return (self.stream(prompt, sampling, rng, max_tokens=max_tokens, stops=stops) for _ in range(n))
        max_length, bos = self.max_length(prompt, max_tokens), self.tokenizer.bos
        drawn = generate_many(self.engine, self.state, prompt, n, max_length, sampling, rng, bos)
        return (decode_stream(self.tokenizer, each) for each in drawn)

    def max_length(self, prompt: Sequence[int], max_tokens: int | None) -> int:
        """Positions that a text may use, prompt included."""
        block = self.config.model.block_size
        return block if max_tokens is None else min(block, len(prompt) + max_tokens - 1)

    def _endless(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        rng: Random,
        max_tokens: int | None,
        max_chars: int | None,
        keep: int,
        stops: Sequence[str],
    ) -> Iterator[str]:
        block, bos = self.config.model.block_size, self.tokenizer.bos
        data = self.config.data
        restart = data.packing == "rows" and data.format != "chunks"  # chunks are parts of one text
        drawn = generate_endless(self.engine, self.state, prompt, block, sampling, rng, bos, keep=keep, restart=restart)
        left = max_chars
        for piece in stop_at(self._documents(itertools.islice(drawn, max_tokens)), stops):
            yield piece[:left]
            if left is not None and (left := left - len(piece)) <= 0:
                return

    def _documents(self, tokens: Iterable[int]) -> Iterator[str]:
        """Tokens as text, BOS as the separator of documents in the run's format.

        A context of tokens without a character is the end: a chat model can repeat its role tokens for ever.
        """
        separator = {"chunks": "", "paragraphs": "\n\n"}.get(self.config.data.format, "\n")
        stream, empty = self.tokenizer.stream(), 0
        for token in tokens:
            if token == self.tokenizer.bos:
                piece = stream.end() + separator
                stream = self.tokenizer.stream()
            else:
                piece = stream.feed([token])
            yield piece
            empty = 0 if piece else empty + 1
            if empty >= self.config.model.block_size:
                break
        yield stream.end()

    def generate(
        self, prompt: str = "", *, seed: int | None = None, max_tokens: int | None = None, **sampling: Any
    ) -> Completion:
        """The continuation of a text, piece by piece: `for piece in model.generate("em", temperature=0.8): …`.

        `.read()` gives it whole. Raises DataError for a character that the tokenizer does not know.
        """
        tokens, dropped = self.encode(prompt)
        chosen = self.sampling(**sampling)
        return self.stream(tokens, chosen, self.rng(seed), max_tokens=max_tokens, tokens_dropped=dropped)
