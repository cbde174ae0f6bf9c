"""Rows of conversations: what a sample answers, what counts as trained on, what is held out."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from microgpt.config import Data
from microgpt.data import documents
from microgpt.data.chat_corpus import ChatCorpus
from microgpt.data.load import load
from microgpt.data.mix import Mix
from microgpt.errors import DataError


@pytest.fixture
def corpus(tmp_path: Path) -> ChatCorpus:
    """Eight conversations, two of which are held out."""
    path = tmp_path / "chats.jsonl"
    lines = [
        [
            {"role": "user", "content": f"how much is {n}?"},
            {"role": "assistant", "content": f"it is {n}"},
            {"role": "user", "content": "and then?"},
            {"role": "assistant", "content": f"then {n + 1}"},
        ]
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = load(Data(path=str(path), format="chat"), 128).split(Random(1), 0.25)
    assert isinstance(found, ChatCorpus)
    return found


def test_a_sample_answers_a_conversation_up_to_its_first_answer(corpus: ChatCorpus) -> None:
    prompts = [corpus.example_prompt(Random(seed)) for seed in range(20)]
    assert all([message.role for message in prompt] == ["user"] for prompt in prompts)
    assert len({prompt[0].content for prompt in prompts}) > 3


def test_answers_of_training_alone_are_contained(corpus: ChatCorpus) -> None:
    trained, held = (set(corpus.order[part].tolist()) for part in (slice(0, 6), slice(6, None)))
    assert corpus.n_held_out == len(held) == 2
    assert corpus.contains([f" it is {n}\n" for n in range(8)]) == [n in trained for n in range(8)]
    assert corpus.contains(["how much is 3?", "no such answer", ""]) == [False, False, False]


def test_a_mix_has_a_fingerprint_of_its_own(corpus: ChatCorpus) -> None:
    old = load(Data(path=corpus.chats.source, format="chat", score="all"), 128).split(Random(2), 0.0)
    mix = Mix(corpus, old, 0.5)
    assert len({mix.fingerprint, corpus.fingerprint, old.fingerprint}) == 3


def test_too_few_conversations_to_hold_some_out(corpus: ChatCorpus) -> None:
    with pytest.raises(DataError, match="8 conversations are too few to hold out 1%"):
        load(Data(path=corpus.chats.source, format="chat"), 128).split(Random(1), 0.01)


# of the corpus above as it was before its rows could lie on disk: a run that was begun then goes on
FINGERPRINT = "6d0bade938b85cd2eec60a3804e7a6d1b64ac9f8d156d4d9e40e4b1c48011da9"


def test_long_conversations_lie_on_disk_and_give_the_same_rows(
    corpus: ChatCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "IN_MEMORY", 100)
    data = Data(path=corpus.chats.source, format="chat")
    for _ in ("written", "found"):
        text = load(data, 128)
        mapped = text.split(Random(1), 0.25)
        assert isinstance(mapped, ChatCorpus)
        assert mapped.rows.encoded.pages
        assert not corpus.rows.encoded.pages
        assert mapped.fingerprint == corpus.fingerprint == FINGERPRINT
        first = text.tokenizer.decode(mapped.feed(0, 1, 1, 128).tokens)
        assert f"it is {mapped.place(0, 128)}" in first
        for old, new in (
            (corpus.feed(3, 5, 2, 128), mapped.feed(3, 5, 2, 128)),
            *zip(corpus.held_out(128), mapped.held_out(128), strict=True),
        ):
            for name in ("tokens", "offsets", "steps", "scored"):
                np.testing.assert_array_equal(getattr(old, name), getattr(new, name), strict=True)
        assert mapped.held_out_size == corpus.held_out_size
        assert mapped.example_prompt(Random(3)) == corpus.example_prompt(Random(3))
        assert mapped.contains(["it is 3", "how much is 3?"]) == corpus.contains(["it is 3", "how much is 3?"])
        assert list(mapped.chats.conversations) == corpus.chats.conversations
        assert text.documents.notes == corpus.chats.notes
    # the context decides the rows, so it is part of the cache's key
    assert load(data, 32).split(Random(1), 0.25).n_documents > mapped.n_documents
