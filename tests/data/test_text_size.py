"""The size of a text: what the tokenizer does not know is charged, and what it drops is not counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.config import Data
from microgpt.data.load import load
from microgpt.data.text_size import TextSize, total
from microgpt.tokenizers import KINDS, train
from tests.tokenizers.common import EXACT, trained

LN2 = math.log(2)
KNOWN = ["the fox", "a  red fox", "the lazy dog's back, x²"]
STRANGE = "the ж猫 fox ж"


def test_the_code_spells_what_unk_stands_for() -> None:
    size = TextSize(bytes=100, characters=50, unknown_bytes=10, unknown_tokens=3)
    assert size.bits(20 * LN2) == pytest.approx(20 + 8 * 10 + 8 * 3)
    assert size.bits_per_byte(20 * LN2) == pytest.approx(1.24)
    assert size.nats_per_character(20 * LN2) == pytest.approx(124 * LN2 / 50)
    assert (size.unknown_share, size.left_out) == (0.1, False)


def test_text_that_was_left_out_is_neither_spelled_nor_counted() -> None:
    size = TextSize(bytes=90, characters=90, unknown_bytes=10, unknown_tokens=0)
    assert size.bits(20 * LN2) == pytest.approx(20)
    assert (size.unknown_share, size.left_out) == (0.1, True)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mapped: bool) -> None:
    """A text is its known part, as `decode` gives it back, and the parts that are one <unk> each."""
    if mapped:
        monkeypatch.setenv("MICROGPT_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr("microgpt.data.documents.IN_MEMORY", 5)
    tokenizer, path, texts = trained(kind, unk=True), tmp_path / "text.txt", [*KNOWN, STRANGE]
    path.write_text("\n".join(texts), encoding="utf-8")
    data = load(Data(path=str(path), unk=True), 8, tokenizer)
    found = data.held_out().encoded.sizes  # type: ignore[attr-defined]
    for text, size in zip(texts, map(TextSize._make, found.tolist()), strict=True):
        tokens = tokenizer.encode(text)
        kept = text if kind in EXACT else tokenizer.normalize(text)
        assert size[:2] == (len(kept.encode()), len(kept))
        assert size.unknown_tokens == tokens.tolist().count(tokenizer.special["unk"])
        assert len(tokenizer.unknown_parts(text)) == size.unknown_tokens
        if kind in EXACT:
            assert size.unknown_bytes == size.bytes - len(tokenizer.decode(tokens).encode())
    unknown = {"word": 7, "word-lossy": 7, "bpe": 0}.get(kind, 7)
    assert total(found).unknown_bytes == unknown
    assert total(found[:3]).unknown_bytes == 0


@pytest.mark.parametrize("kind", ["word-lossy", "bpe-words"])
def test_spaces_that_a_tokenizer_drops_are_no_bytes(kind: str) -> None:
    tokenizer = trained(kind)
    for text in KNOWN:
        assert tokenizer.normalize(text) == tokenizer.decode(tokenizer.encode(text))
    assert tokenizer.normalize("the   \t fox") == "the fox"


@pytest.mark.parametrize("unk", [False, True])
def test_unknown_text_of_answers(tmp_path: Path, unk: bool) -> None:
    """Of the scored turns alone; with <unk> spelled, else left out."""
    tokenizer = train("char", ["abc xyz"], roles=True, unk=unk)
    talk = [
        {"role": "user", "content": "ж猫"},
        {"role": "assistant", "content": "ab é猫"},
        {"role": "user", "content": "ж"},
        {"role": "assistant", "content": "xж"},
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(talk) + "\n", encoding="utf-8")
    found = load(Data(path=str(path), format="chat", unk=True), 64, tokenizer).held_out().held_out_size
    assert found == ((11, 7, 7, 3) if unk else (4, 4, 7, 0))
    whole = load(Data(path=str(path), format="chat", unk=True, score="all"), 64, tokenizer).held_out()
    assert whole.held_out_size == ((18, 10, 14, 6) if unk else (4, 4, 14, 0))
    tokens, scored = np.concatenate([[f.tokens, f.scored] for f in whole.held_out(64)], axis=1)
    assert (tokens[scored == 1] == tokenizer.special.get("unk", -1)).sum() == whole.held_out_size.unknown_tokens


def test_a_text_of_unknown_words_costs_at_least_its_letters(tmp_path: Path) -> None:
    """Random letters carry log2(26) bits each, which no honest figure is below."""
    rng = Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=12)) for _ in range(300)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join(words[i : i + 5]) for i in range(0, 300, 5)), encoding="utf-8")
    size = load(Data(path=str(path), unk=True), 8, train("word", ["the cat"], unk=True)).held_out().held_out_size
    assert size.bits_per_byte(0.0) > math.log2(26)
    assert size.unknown_share > 0.9
