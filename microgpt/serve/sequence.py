"""One text under way: the logits that a token is drawn from, and the events of the token that was drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Tokens
from random import Random

import numpy as np

from microgpt.inference.generate import UntilStop, without
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling, probabilities
from microgpt.serve.generation import Candidate, Event, Finished, FinishReason, Generation, Scored, Token


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
        for _ in range(request.draws):
            self.rng.random()
        self._decoder = model.tokenizer.stream()
        self._text = UntilStop(request.stops)
        self._drawn: Counter[int] = Counter()
        shifted = request.logit_bias or request.presence_penalty or request.frequency_penalty
        self._never = np.array(request.never, dtype=np.intp)
        self._never_first = self._never if request.allow_empty else np.append(self._never, self._stop)
        self._free = not (shifted or len(self._never_first) or request.mask)  # whether any token may come, as it is

    @property
    def wants_logits(self) -> bool:
        """Whether a token is to be drawn; not so for max_tokens 0."""
        return not self.finished and len(self.seen) <= self._max_length

    def shaped(self, logits: np.ndarray) -> np.ndarray:
        """The logits (V,) after the tokens seen, as the next one is drawn from them."""
        if self._free:
            return logits
        request = self.request
        first = len(self.seen) == self._n_prompt
        row = without(self._shifted(logits), self._never_first if first else self._never)
        return np.where(request.mask.allowed(), row, -np.inf) if request.mask else row

    def accept(self, token: int, logits: np.ndarray) -> list[Event]:
        """The events of a token that was drawn after these logits (V,); Finished at the end."""
        request = self.request
        found = None if request.logprobs is None else scored(logits, token, request.logprobs)
        weighed = self._weighed(token, logits) if request.weigh else []
        if token == self._stop:
            return [self.finish("stop", found and Scored(token, *found, weighed))]
        if request.mask:
            request.mask.accept(token)
        self.seen.append(token)
        if request.presence_penalty or request.frequency_penalty:
            self._drawn[token] += 1
        text = self._text.feed(self._decoder.feed([token]))
        events: list[Event] = [Token(token, text, *found, weighed) if found else Token(token, text)]
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

    def _weighed(self, token: int, logits: np.ndarray) -> list[Candidate]:
        request = self.request
        return weigh(logits, self.shaped(logits), token, request.sampling, self.seen, request.logprobs or 0)

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


def weigh(
    logits: np.ndarray, shaped: np.ndarray, token: int, sampling: Sampling, seen: Tokens[int], n: int
) -> list[Candidate]:
    """The n likeliest tokens under the logits (V,), the n likeliest to be drawn after `seen` from the `shaped` ones,
    and the token itself, the likeliest under the logits first."""
    z = logits.astype(np.float64)
    z -= z.max()
    z -= np.log(np.exp(z).sum())
    shares = probabilities(shaped, sampling, seen)
    among = {*_largest(z, n), *(each for each in _largest(shares, n) if shares[each] > 0), token}
    ordered = sorted(among, key=lambda each: (-z[each], each))
    return [Candidate(each, float(z[each]), float(shares[each])) for each in ordered]


def _largest(values: np.ndarray, n: int) -> list[int]:
    """The places of the n largest of V values, in any order."""
    found: list[int] = np.argpartition(-values, n)[:n].tolist() if 0 < n < len(values) else list(range(len(values)))[:n]
    return found


def weigh_prompt(logits: np.ndarray, prompt: Tokens[int], first: int, sampling: Sampling, n: int) -> list[Scored]:
    """The tokens of a prompt from `first` on, each with the candidates that the logits (T, V) before it give."""
    found = []
    for at, row in enumerate(logits, start=first):
        token, candidates = prompt[at], weigh(row, row, prompt[at], sampling, prompt[:at], n)
        logprob = next(candidate.logprob for candidate in candidates if candidate.id == token)
        found.append(Scored(token, logprob, [], candidates))
    return found
