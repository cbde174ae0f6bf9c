"""Text up to a stop; text past the end of documents and of the context."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.cli import main
from microgpt.inference.generate import generate_endless, stop_at
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling

BOS = 4


class Counting:
    """An engine whose next token is always the one after the last; it keeps what it was fed."""

    def __init__(self, block_size: int) -> None:
        self.block_size, self.fed = block_size, list[list[int]]()

    def logits(self, state: object, tokens: np.ndarray, cache: int | None = None) -> tuple[np.ndarray, int]:
        used = (cache or 0) + len(tokens)
        assert used <= self.block_size
        if cache is None:
            self.fed.append([])
        self.fed[-1] += tokens.tolist()
        out = np.full((len(tokens), BOS + 1), -1e9)
        out[-1, (tokens[-1] + 1) % (BOS + 1)] = 0
        out[-1, BOS - 1] += 1  # what is left where BOS may not come
        return out, used


def drawn(engine: Counting, n: int, prompt: list[int], **options: Any) -> list[int]:
    found = generate_endless(engine, None, prompt, engine.block_size, Sampling(0), Random(0), BOS, **options)  # type: ignore[arg-type]
    return [token for token, _ in zip(found, range(n), strict=False)]


def test_without_keeping_the_context_is_the_end() -> None:
    engine = Counting(6)
    assert drawn(engine, 99, [BOS, 0]) == [1, 2, 3, 4, 0]
    assert engine.fed == [[BOS, 0, 1, 2, 3, 4]]


def test_a_chain_goes_on_with_the_last_of_the_context() -> None:
    engine = Counting(6)
    assert drawn(engine, 50, [BOS, 0], keep=3) == [i % 5 for i in range(1, 51)]
    assert engine.fed[0] == [BOS, 0, 1, 2, 3, 4]
    assert engine.fed[1][:4] == [BOS, 3, 4, 0], "BOS, then the last three"
    assert all(fed[0] == BOS for fed in engine.fed)
    assert all(len(fed) <= 6 for fed in engine.fed)


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_every_part_can_be_kept(keep: int) -> None:
    engine = Counting(6)
    tokens = drawn(engine, 40, [BOS], keep=keep)
    assert len(tokens) == 40
    assert not any(a == b == BOS for a, b in itertools.pairwise(tokens))


def test_each_document_begins_a_context() -> None:
    engine = Counting(8)
    assert drawn(engine, 12, [BOS, 1], keep=3, restart=True) == [2, 3, 4, *[0, 1, 2, 3, 4], *[0, 1, 2, 3]]
    assert engine.fed == [[BOS, 1, 2, 3], [BOS, 0, 1, 2, 3], [BOS, 0, 1, 2, 3]]
    assert drawn(Counting(6), 99, [BOS, 0], restart=True) == [1, 2, 3, 4, 0], "as many as without restart"


def test_a_document_longer_than_the_context_goes_on() -> None:
    engine = Counting(3)
    assert drawn(engine, 9, [BOS], keep=1, restart=True) == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert engine.fed[:3] == [[BOS, 0, 1], [BOS, 2, 3], [BOS, 0, 1]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prose")
    text = folder / "text.txt"
    text.write_text("ab ba\n\nbab äb\n\n" * 20, encoding="utf-8")
    words = ["train", str(text), "--format", "paragraphs", "--packing", "joined", "--tokenizer", "bpe"]
    assert main([*words, "--bpe-merges", "3", "--steps", "30", "--out", str(folder / "run"), "--samples", "0"]) == 0
    return folder / "run"


def samples(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["generate", *words, "--json", "--seed", "1"]) == 0
    return [sample["text"] for sample in json.loads(capsys.readouterr().out)["samples"]]


@pytest.mark.parametrize("n", [1, 17, 500])
def test_a_chain_reaches_its_characters(model: Path, capsys: pytest.CaptureFixture[str], n: int) -> None:
    found = samples(capsys, str(model), "-n", "3", "--chain", "--max-chars", str(n), "--temperature", "1")
    assert [len(text) for text in found] == [n] * 3
    assert n < 500 or all("\n\n" in text for text in found), "documents are set apart as in the text"
    assert samples(capsys, str(model), "-n", "3", "--chain", "--max-chars", str(n), "--temperature", "1") == found


def test_past_the_end_of_a_document(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = samples(capsys, str(model), "-n", "5")
    assert not any("\n\n" in text for text in plain)
    past = samples(capsys, str(model), "-n", "5", "--no-stop-at-bos")
    assert any("\n\n" in text for text in past)
    short = samples(capsys, str(model), "-n", "5", "--no-stop-at-bos", "--max-tokens", "2")
    assert all(len(text) < len(other) for text, other in zip(short, past, strict=True))


class Recording:
    """A model's engine that keeps the contexts that it was fed."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.fed = engine, list[list[int]]()

    def logits(self, state: object, tokens: np.ndarray, cache: Any = None) -> tuple[np.ndarray, Any]:
        if cache is None:
            self.fed.append([])
        self.fed[-1] += tokens.tolist()
        assert len(self.fed) < 1000, "without end"
        return self.engine.logits(state, tokens, cache)


@pytest.mark.parametrize("keep", [0, 8])
@pytest.mark.parametrize("rows", ["one document", "joined", "chunks"])
def test_a_context_is_as_rows_of_training_were(names_run: Path, model: Path, rows: str, keep: int) -> None:
    opened = LanguageModel.open(model if rows == "joined" else names_run)
    engine = Recording(opened.engine)
    config = opened.config.replace(data={"format": "chunks"}) if rows == "chunks" else opened.config
    opened = dataclasses.replace(opened, engine=engine, config=config)
    prompt, _ = opened.encode("")
    texts = opened.texts(prompt, 20, opened.sampling(temperature=1), Random(1), endless=True, keep=keep, max_tokens=60)
    assert "" not in ["".join(pieces) for pieces in texts]
    bos = opened.tokenizer.bos
    assert all(context[0] == bos for context in engine.fed)
    assert any(bos in context[1:] for context in engine.fed) == (rows != "one document")


def test_a_text_without_characters_ends(chat_run: Path) -> None:
    opened = LanguageModel.open(chat_run)

    calls = itertools.count()

    class Roles:
        def logits(self, state: object, tokens: np.ndarray, cache: Any) -> tuple[np.ndarray, Any]:
            assert next(calls) < 1000, "without end"
            out = np.zeros((1, opened.tokenizer.vocab_size))
            out[0, opened.tokenizer.special["user"]] = 1
            return out, cache

    wordless: Any = dataclasses.replace(opened, engine=Roles())
    options = {"endless": True, "keep": 32, "max_chars": 50}
    (pieces,) = wordless.texts([opened.tokenizer.bos], 1, Sampling(0), Random(1), **options)
    assert "".join(pieces) == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--chain", "--max-chars", "0"], "--max-chars: must be 1 to 2,147,483,647, got 0"),
        (["--max-chars", "9"], "--max-chars: belongs to --chain"),
        (["--chain-context", "9"], "--chain-context: belongs to --chain"),
        (["--chain", "--chain-context", "15"], "--chain-context: must be 1 to 14"),
        (["--chain", "--chain-context", "0"], "--chain-context: must be 1 to 14"),
    ],
)
def test_flags_that_cannot_be(model: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(["generate", str(model), *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["a", "b", "c"], [], "abc"),
        (["a", "b", "c"], ["b"], "a"),
        (["x#", "#y"], ["##"], "x"),
        (["x#", "y"], ["##"], "x#y"),
        (["x#"], ["##"], "x#"),
        (["aab"], ["ab", "aa"], ""),
        (["ab", "c"], ["bc", "abcd"], "a"),
    ],
)
def test_stop_at_cuts_at_the_first_stop(pieces: list[str], stops: list[str], expected: str) -> None:
    assert "".join(stop_at(pieces, stops)) == expected


@settings(max_examples=300)
@given(st.lists(st.text("ab", max_size=3)), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2))
def test_stop_at_agrees_with_a_search_of_the_whole(pieces: list[str], stops: list[str]) -> None:
    # The whole text is searched after each piece, since a longer stop may begin earlier but end later.
    text = ""
    for piece in pieces:
        text += piece
        ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
        if ends:
            text = text[: min(ends)]
            break
    assert "".join(stop_at(pieces, stops)) == text
