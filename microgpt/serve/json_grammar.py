"""JSON of a given shape: the tokens that may come next, by llguidance (https://github.com/guidance-ai/llguidance).

llguidance takes any vocabulary, as the bytes of each token. Two kinds of tokenizers put a space between some
neighbours: where a token carries the mark of a word's end, its bytes end with the space; where the space depends on
both neighbours, each token stands there twice, alone and behind a space, and the token before it tells which counts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from microgpt import json_text
from microgpt.errors import DataError
from microgpt.serve.errors import ApiError
from microgpt.tokenizers.base import Base

# Optional white space is one space at most: a model that writes more and more of it would never end.
OPTIONS = {"whitespace_pattern": "[ ]?", "lenient": False}
LIMITS = LLParserLimits(
    max_grammar_size=50_000,
    step_max_items=20_000,
    step_lexer_fuel=100_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)


CLOSING = (b'"}] ', b":,", b"0123456789", b"ntf-", b"{[")  # the bytes of tokens that lead to a text's end, best first
SPARE = 8  # tokens that are left when a text is led to its end
FARTHEST = 256  # tokens of an ending that is looked for
FEW = 8  # a text that may go on in more ways than these is not looked at further
DEPTH = 6  # tokens ahead that are looked at


class SchemaError(ApiError):
    """A schema that the library does not hold, or that the model's vocabulary cannot write."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message, param="response_format", code="unsupported_schema")


class Vocabulary:
    """A tokenizer's vocabulary as llguidance takes it; id 0 stands for the end."""

    eos_token_id = 0
    bos_token_id = None
    special_token_ids = (0,)

    def __init__(self, tokenizer: Base) -> None:
        n = tokenizer.n_vocab
        marked = getattr(tokenizer, "names", None) if tokenizer.kind == "bpe-words" else None
        self.tokenizer = tokenizer
        self.glue = None if marked else tokenizer.glue
        alone = [name.encode() for name in marked] if marked else tokenizer.pieces[:n]
        behind = [b" " + piece for piece in alone] if self.glue else []
        self.tokens = [b"<end>", *alone, *behind]
        self._ids = {piece: i for i, piece in reversed(list(enumerate(self.tokens))) if i and piece}
        self._longest = max(map(len, self._ids))
        letters = {bytes([code]) for code in range(0x20, 0x7F)}
        self.complete = not tokenizer.glue and letters <= self._ids.keys()  # then any text can go on
        # Of the tokens that are allowed, the one with the least rank leads to a text's end.
        self.rank = np.empty(n, np.int64)
        self.rank[sorted(range(n), key=lambda token: _closing(alone[token]))] = np.arange(n)
        self.behind = lru_cache(maxsize=256)(self._behind)
        self.library = LLTokenizer(TokenizerWrapper(self), n_vocab=len(self.tokens), eos_token=0)

    def _behind(self, last: int) -> np.ndarray:
        """bool (n_vocab,): the tokens that stand behind a space after another; where glue tells."""
        assert self.glue
        n = self.tokenizer.n_vocab
        return np.fromiter((bool(self.glue(last, token)) for token in range(n)), np.bool_, n)

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text that the grammar leaves no choice about."""
        given = text.encode() if isinstance(text, str) else text
        if not self.tokenizer.glue:
            try:
                return (self.tokenizer.encode(given.decode()) + 1).tolist()
            except (DataError, UnicodeDecodeError):
                pass
        found, at = [], 0
        while at < len(given):
            lengths = range(min(self._longest, len(given) - at), 0, -1)
            length = next((n for n in lengths if given[at : at + n] in self._ids), 0)
            if not length:  # no token writes it; the grammar then refuses whatever comes
                break
            found.append(self._ids[given[at : at + length]])
            at += length
        return found


def _closing(piece: bytes) -> tuple[int, int]:
    """How well a token leads to a text's end: the least is best."""
    if piece.strip() and not piece.strip(CLOSING[0]):
        return 0, -len(piece)
    kind = next((i for i, first in enumerate(CLOSING) if i and piece and piece[:1] in first), len(CLOSING))
    return kind, len(piece)


@lru_cache(maxsize=8)
def vocabulary(tokenizer: Base) -> Vocabulary:
    """The vocabulary of a tokenizer, made once while it is used."""
    return Vocabulary(tokenizer)


class Grammar:
    """A JSON schema, compiled for a tokenizer. Raises SchemaError for one that is not held in full."""

    def __init__(self, schema: dict[str, Any], tokenizer: Base) -> None:
        self.vocabulary = vocabulary(tokenizer)
        if "x-guidance" in schema:
            raise SchemaError("x-guidance is not a keyword of JSON Schema")
        try:
            grammar = LLMatcher.grammar_from_json_schema(json_text.dumps(schema), overrides=OPTIONS)  # type: ignore[arg-type]
            failed, said = LLMatcher.validate_grammar_with_warnings(grammar, self.vocabulary.library, limits=LIMITS)
        except Exception as error:  # the library's own have no common type
            failed, said = True, [str(error)]
        if failed:
            raise SchemaError(" ".join(" ".join(said).split())[:300] or "the schema is not one of JSON Schema")
        self._matcher = LLMatcher(self.vocabulary.library, grammar, log_level=0, limits=LIMITS)
        self._check()

    def text(self, stop_token: int, room: int | None = None) -> JsonText:
        """A new text of this shape. With `room`, the text is led to its end before it has so many tokens."""
        return JsonText(self.vocabulary, self._matcher.deep_copy(), stop_token, room)

    def _check(self) -> None:
        """Raise SchemaError where no text can begin."""
        if self._matcher.is_error():
            raise SchemaError(" ".join(self._matcher.get_error().split())[:300])
        self.text(0).allowed()


class JsonText:
    """One text under way: a Constraint, see microgpt.serve.generation."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher, stop_token: int, room: int | None = None) -> None:
        self._vocabulary, self._matcher, self._stop = vocabulary, matcher, stop_token
        self._room, self._look_at = room, room or 0  # tokens left; with how many to look for the end again
        self._ends = False  # whether the text is being led to its end
        self._bits = np.zeros((len(vocabulary.tokens) + 31) // 32, np.int32)
        self._last: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> np.ndarray:
        """bool (V,): the tokens that may come next; the stop token where the text is whole.

        Raises SchemaError where the vocabulary lacks whatever may follow.
        """
        found = self._following()
        if self._ends_now():
            last = found[self._stop]
            best = self._best(found)
            found[:] = False
            found[self._stop if last else best] = True
        return found

    def _ends_now(self) -> bool:
        """Whether the room is little more than the text needs to come to its end."""
        if self._room is None or self._room > self._look_at:
            return False
        if not self._ends:
            length = self._length_of_ending(min(self._room, FARTHEST)) + SPARE
            self._ends = self._room <= length
            self._look_at = (self._room + length) // 2
        return self._ends

    def _length_of_ending(self, most: int) -> int:
        """The number of tokens on a short way to the text's end; `most` for a longer one."""
        after = self._copy()
        for length in range(most):
            if after._matcher.is_accepting():
                return length
            try:
                after.accept(after._best(after._following()))
            except SchemaError:
                break
        return most

    def _best(self, allowed: np.ndarray) -> int:
        """The allowed token that leads to the text's end."""
        tokens = np.flatnonzero(allowed[: len(self._vocabulary.rank)])
        return int(tokens[self._vocabulary.rank[tokens].argmin()]) if len(tokens) else self._stop

    def _following(self) -> np.ndarray:
        """As `allowed`, by the grammar alone."""
        tokenizer = self._vocabulary.tokenizer
        found = np.zeros(tokenizer.vocab_size, np.bool_)
        if not self.finished:
            found[: tokenizer.n_vocab] = self._mask()
            if not self._vocabulary.complete and found.sum() <= FEW * FEW:
                for token in np.flatnonzero(found):
                    found[token] = self._goes_on(int(token), DEPTH)
        found[self._stop] = self._matcher.is_accepting()
        if self._matcher.is_error() or not found.any():
            raise SchemaError("this model's vocabulary has no token that may follow; it cannot write this schema")
        return found

    def accept(self, token: int) -> None:
        """The token that was drawn, one of those that were allowed."""
        behind = self._behind()
        number = 1 + token + (self._vocabulary.tokenizer.n_vocab if behind is not None and behind[token] else 0)
        if not self._matcher.consume_token(number):
            raise SchemaError("this model's vocabulary cannot write this schema")
        self._last = token
        if self._room is not None:
            self._room -= 1

    def _copy(self) -> JsonText:
        copy = JsonText(self._vocabulary, self._matcher.deep_copy(), self._stop)
        copy._last = self._last
        return copy

    def _goes_on(self, token: int, depth: int) -> bool:
        """Whether a text with this token next can go on, as far as is looked ahead."""
        after = self._copy()
        try:
            after.accept(token)
        except SchemaError:
            return False
        if depth == 0 or after._matcher.is_accepting():
            return True
        following = np.flatnonzero(after._mask())
        return len(following) > FEW or any(after._goes_on(int(other), depth - 1) for other in following)

    def _mask(self) -> np.ndarray:
        """bool (n_vocab,): the tokens that may come next by the grammar alone."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little").astype(np.bool_)
        n, behind = self._vocabulary.tokenizer.n_vocab, self._behind()
        alone = bits[1 : n + 1]
        return alone if behind is None else np.where(behind, bits[n + 1 : 2 * n + 1], alone)

    def _behind(self) -> np.ndarray | None:
        """The tokens that stand behind a space here; None if there are none."""
        spaced = self._vocabulary.glue is not None and self._last is not None
        return self._vocabulary.behind(self._last) if spaced else None
