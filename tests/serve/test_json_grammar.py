"""JSON of a schema, written by whatever vocabulary: random draws among the allowed tokens make valid JSON."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any, cast

import numpy as np
import pytest

from microgpt import tokenizers
from microgpt.serve.json_grammar import Grammar, SchemaError
from microgpt.tokenizers.base import Base

TEXTS = [
    '{"name": "em ma", "n": [1, 2.5, -3e+5], "ok": true, "no": false, "x": null}. 0 6 7 8 9 4',
    'the "ok" \\ u é',
] * 3
OBJECT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "n": {"type": "array", "items": {"type": "integer", "minimum": -3, "maximum": 22}, "maxItems": 3},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}


def tokenizer(kind: str) -> Base:
    options = {"vocab_size": 300} if kind == "bpe" else {"merges": 40} if kind.startswith("bpe") else {}
    return cast(Base, tokenizers.train(kind, TEXTS, roles=True, **options))


def write(grammar: Grammar, tokenizer: Base, seed: int, room: int | None = None) -> str | None:
    """A text of tokens drawn at random; None for one that does not end soon."""
    rng, text, tokens = random.Random(seed), grammar.text(tokenizer.bos, room), []
    for _ in range(room or 200):
        token = int(rng.choice(np.flatnonzero(text.allowed())))
        if token == tokenizer.bos:
            return tokenizer.decode(tokens)
        text.accept(token)
        tokens.append(token)
        if text.finished:
            return tokenizer.decode(tokens)
    return None


def fits(value: Any) -> bool:
    """Whether a value is one of OBJECT."""
    return (
        isinstance(value, dict)
        and {"name", "n"} <= value.keys() <= {"name", "n", "ok"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 8
        and len(value["n"]) <= 3
        and all(isinstance(number, int) and -3 <= number <= 22 for number in value["n"])
        and isinstance(value.get("ok", True), bool)
    )


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_random_tokens_make_json_of_the_schema(kind: str) -> None:
    vocabulary = tokenizer(kind)
    grammar = Grammar(OBJECT, vocabulary)
    texts = [write(grammar, vocabulary, seed) for seed in range(5)]
    assert sum(text is not None for text in texts) > 2
    assert all(fits(json.loads(text)) for text in texts if text is not None)
    literals = Grammar({"enum": ["ok", "em ma", None, 2, True]}, vocabulary)
    assert {json.loads(write(literals, vocabulary, seed) or "") for seed in range(5)} <= {"ok", "em ma", None, 2, True}


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_any_object(kind: str) -> None:
    vocabulary = tokenizer(kind)
    grammar = Grammar({"type": "object"}, vocabulary)
    for text in [write(grammar, vocabulary, seed) for seed in range(8)]:
        assert text is None or isinstance(json.loads(text), dict)


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_a_text_is_led_to_its_end_where_it_has_little_room(kind: str) -> None:
    vocabulary = tokenizer(kind)
    grammar = Grammar({"type": "object"}, vocabulary)
    texts = [write(grammar, vocabulary, seed, room=30) for seed in range(4)]
    assert all(isinstance(json.loads(text or ""), dict) for text in texts)
    assert any(len(json.loads(text or "")) > 0 for text in texts)


def test_a_text_that_may_go_on_may_also_end() -> None:
    vocabulary = tokenizer("char")
    text = Grammar({"type": "integer"}, vocabulary).text(vocabulary.bos)
    assert not text.allowed()[vocabulary.bos]
    text.accept(int(vocabulary.encode("4")[0]))
    assert text.allowed()[vocabulary.bos]
    assert not text.finished


def test_a_vocabulary_without_the_characters_is_refused() -> None:
    letters = cast(Base, tokenizers.train("char", ["emma", "olivia"]))
    with pytest.raises(SchemaError, match="vocabulary"):
        Grammar({"type": "object"}, letters)


def test_texts_of_one_grammar_do_not_touch_each_other() -> None:
    vocabulary = tokenizer("bpe")
    grammar = Grammar(OBJECT, vocabulary)
    alone = [write(grammar, vocabulary, seed) for seed in range(4)]
    first, second = grammar.text(vocabulary.bos), grammar.text(vocabulary.bos)
    first.accept(int(vocabulary.encode("{")[0]))
    assert (second.allowed() != first.allowed()).any()
    assert [write(grammar, vocabulary, seed) for seed in range(4)] == alone


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a{1000}){1000}"},
        {"enum": ["x" * 1000] * 50},
        {"type": "array", "items": {"type": "object"}, "minItems": 10**6},
        {"type": "object", "properties": {str(i): {"type": "string"} for i in range(1000)}},
        {"anyOf": [{"type": "object", "properties": {str(i): {"type": "string"}}} for i in range(1000)]},
        json.loads('{"items":' * 60 + "{}" + "}" * 60),
    ],
    ids=range(6),
)
def test_a_large_schema_is_refused_or_cheap(schema: dict[str, Any]) -> None:
    vocabulary = tokenizer("bpe")
    with contextlib.suppress(SchemaError):
        text = Grammar(schema, vocabulary).text(vocabulary.bos)
        for _ in range(20):
            text.accept(int(np.flatnonzero(text.allowed())[0]))
