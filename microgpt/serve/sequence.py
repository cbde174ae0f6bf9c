"""One text under way: the logits that a token is drawn from, and the events of the token that was drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Tokens
from random import Random

import numpy as np

from microgpt.inference.generate import UntilStop, without
from microgpt.inference.language_model import LanguageModel
from microgpt.serve.generation import Event, Finished, FinishReason, Generation, Scored, Token


class Sequence:
    """The state of a Generation: its tokens, its generator, its decoder. `finished` once its last event is out."""

    def __init__(self, request: Generation, model: LanguageModel) -> None:
        self.request = request
        self.seen = list(request.prompt)
        self.finished = False
        self._n_prompt = len(self.seen)
        self._max_length = model.max_length(self.seen, request.max_tokens)
        self._stop = model.tokenizer.bos if request.stop_token is None else request.stop_token
        self.rng = Random(request.seed)
        self._decoder = model.tokenizer.stream()
        self._text = UntilStop(request.stops)
        self._drawn: Counter[int] = Counter()

    @property
    def wants_logits(self) -> bool:
        """Whether a token is to be drawn; not so for max_tokens 0."""
        return not self.finished and len(self.seen) <= self._max_length

    def shaped(self, logits: np.ndarray) -> np.ndarray:
        """The logits (V,) after the tokens seen, as the next one is drawn from them."""
        request = self.request
        first = len(self.seen) == self._n_prompt
        never = [*request.never, self._stop] if first and not request.allow_empty else request.never
        row = without(self._shifted(logits), never)
        return np.where(request.mask.allowed(), row, -np.inf) if request.mask else row

    def accept(self, token: int, logits: np.ndarray) -> list[Event]:
        """The events of a token that was drawn after these logits (V,); Finished at the end."""
        request = self.request
        if token == self._stop:
            ending = None if request.logprobs is None else Scored(token, *scored(logits, token, request.logprobs))
            return [self.finish("stop", ending)]
        if request.mask:
            request.mask.accept(token)
        self.seen.append(token)
        if request.presence_penalty or request.frequency_penalty:
            self._drawn[token] += 1
        text = self._text.feed(self._decoder.feed([token]))
        if request.logprobs is None:
            events: list[Event] = [Token(token, text)]
        else:
            events = [Token(token, text, *scored(logits, token, request.logprobs))]
        if self._text.stopped or (request.mask and request.mask.finished):
            events.append(self.finish("stop"))
        elif len(self.seen) > self._max_length:
            events.append(self.finish("length"))
        return events

    def finish(self, reason: FinishReason, ending: Scored | None = None) -> Finished:
        """The last event."""
        self.finished = True
        rest = ""
        if not self._text.stopped:
            rest = self._text.feed(self._decoder.end())
            if not self._text.stopped:
                rest += self._text.end()
        return Finished(reason, rest, self._n_prompt, len(self.seen) - self._n_prompt, ending)

    def _shifted(self, logits: np.ndarray) -> np.ndarray:
        """The logits with bias and penalties, in float64; the same array where there are none."""
        request = self.request
        if not (request.logit_bias or request.presence_penalty or request.frequency_penalty):
            return logits
        shifted = logits.astype(np.float64)
        for token, bias in request.logit_bias.items():
            shifted[token] += bias
        for token, count in self._drawn.items():
            shifted[token] -= request.presence_penalty + count * request.frequency_penalty
        return shifted


def scored(logits: np.ndarray, token: int, n: int) -> tuple[float, list[tuple[int, float]]]:
    """A token's log probability under the logits (V,), and the n likeliest tokens with theirs."""
    z = logits.astype(np.float64)
    z -= z.max()
    z -= np.log(np.exp(z).sum())
    best = np.argsort(-z, kind="stable")[:n].tolist() if n else []
    return float(z[token]), [(other, float(z[other])) for other in best]


def score_prompt(logits: np.ndarray, tokens: Tokens[int], n: int) -> list[Scored]:
    """The tokens that follow each of the logits (T, V)."""
    return [Scored(int(token), *scored(row, token, n)) for row, token in zip(logits, tokens, strict=True)]
