"""The three ways of BPE against the definition, and the check of merges that a file brings."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from microgpt.tokenizers import bpe_reference, train
from microgpt.tokenizers.bpe import GPT2, _crossed
from microgpt.tokenizers.bpe_train import MAX_LENGTH
from microgpt.tokenizers.byte_letters import LETTERS
from tests.tokenizers.common import TEXTS, trained

small = st.lists(st.text(alphabet="ab <>bos", min_size=1, max_size=30), min_size=1, max_size=5)
ORIGINAL_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def learn_bytes(texts: list[str], merges: int) -> list[tuple[int, int]]:
    ids = {byte: i for i, byte in enumerate(LETTERS)}
    seen = Counter(piece for text in texts for piece in regex.findall(ORIGINAL_GPT2, text))
    pieces = [[ids[byte] for byte in piece.encode()] for piece in seen]
    weights = list(seen.values())
    return bpe_reference.learn(pieces, weights, [1] * 256, merges, minimum=2, ties="smallest", max_length=MAX_LENGTH)


def learn_characters(texts: list[str], merges: int, minimum: int) -> tuple[list[str], list[tuple[int, int]]]:
    alphabet = sorted(set("".join(texts)))
    pieces = [[alphabet.index(char) for char in text] for text in texts]
    lengths = [1] * len(alphabet)
    learnt = bpe_reference.learn(
        pieces, [1] * len(pieces), lengths, merges, minimum=minimum, ties="first", max_length=MAX_LENGTH
    )
    return alphabet, learnt


def test_the_definition_on_an_example_by_hand() -> None:
    # aaabdaaabac: aa (4 times), then of ab and (aa)a (both twice) the first, (aa)a.
    piece = [0, 0, 0, 1, 2, 0, 0, 0, 1, 0, 3]
    assert bpe_reference.count([piece], [1]) == {
        (0, 0): 4, (0, 1): 2, (1, 2): 1, (2, 0): 1, (1, 0): 1, (0, 3): 1,
    }  # fmt: skip
    learnt = bpe_reference.learn([piece], [1], [1] * 4, 3, minimum=2, ties="first", max_length=9)
    assert learnt == [(0, 0), (4, 0), (5, 1)]
    assert bpe_reference.encode(piece, learnt, 4) == [6, 2, 6, 0, 3]
    assert bpe_reference.merge([0, 0, 0], (0, 0), 9) == [9, 0]


def test_bytes_are_merged_as_the_definition_says() -> None:
    assert trained("bpe").merge_table() == learn_bytes(TEXTS, 60)


@given(texts=small)
@example(texts=["aaaaaaa aaaaaaaa aaaa"])
def test_bytes_are_merged_as_the_definition_says_on_small_texts(texts: list[str]) -> None:
    texts = [text.replace("<bos>", "") for text in texts]
    assert train("bpe", texts, merges=12).merge_table() == learn_bytes(texts, 12)


@given(texts=small)
@example(texts=["aaaaaaa", "aaaa"])
def test_characters_are_merged_as_the_definition_says(texts: list[str]) -> None:
    texts = [text.replace("<bos>", "-") for text in texts]
    alphabet, learnt = learn_characters(texts, 12, minimum=2)
    tokenizer = train("bpe-vidya", texts, merges=12)
    assert tokenizer.merge_table() == learnt
    for text in texts:
        expected = bpe_reference.encode([alphabet.index(char) for char in text], learnt, len(alphabet))
        assert tokenizer.encode(text).tolist() == expected


@given(texts=small)
def test_words_are_merged_as_tgifriday_does(texts: list[str]) -> None:
    texts = [text.replace("<bos>", "-") for text in texts]
    if not "".join(texts).split():
        return
    seen = Counter(word for text in texts for word in text.split())
    alphabet = sorted({"</w>", *"".join(seen)})
    pieces = [[*(alphabet.index(char) for char in word), alphabet.index("</w>")] for word in seen]
    learnt = bpe_reference.learn(
        pieces, list(seen.values()), [1] * len(alphabet), 12, minimum=1, ties="first", max_length=MAX_LENGTH
    )
    tokenizer = train("bpe-words", texts, merges=12)
    assert tokenizer.merge_table() == learnt
    assert [tokenizer.token(i) for i in range(len(alphabet))] == alphabet
    for text in texts:
        words = [[*(alphabet.index(char) for char in word), alphabet.index("</w>")] for word in text.split()]
        expected = [token for word in words for token in bpe_reference.encode(word, learnt, len(alphabet))]
        assert tokenizer.encode(text).tolist() == expected


@given(text=st.text() | st.text(alphabet=" \n\ta1'!s"))
def test_the_pattern_is_gpt2s(text: str) -> None:
    assert regex.findall(GPT2, text) == regex.findall(ORIGINAL_GPT2, text)


@given(
    choices=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=8, unique=True), n=st.integers(1, 3)
)
@example(choices=[(0, 0), (0, 1)], n=1)  # a, aa, a+aa: but aaa is aa+a
@example(choices=[(0, 1), (1, 2), (0, 4)], n=3)  # abc is ab+c, never a+bc
def test_merges_are_refused_exactly_if_a_token_does_not_encode_to_itself(
    choices: list[tuple[int, int]], n: int
) -> None:
    merges: list[tuple[int, int]] = []
    spelled = [[i] for i in range(n)]
    for left, right in choices:
        pair = (left % len(spelled), right % len(spelled))
        text = spelled[pair[0]] + spelled[pair[1]]
        if text in spelled:
            continue
        merges.append(pair)
        spelled.append(text)
        parts = dict(enumerate(merges, n))
        order = {pair: token for token, pair in parts.items()}
        itself = bpe_reference.encode(text, merges, n) == [len(spelled) - 1]
        assert _crossed(*pair, parts, order) is not itself
        if not itself:
            return


def test_vidyas_tokenizer_of_the_enneads() -> None:
    folders = os.environ.get("MICROGPT_DATA_DIR", "").split(os.pathsep)
    path = next((path for folder in folders if (path := Path(folder, "enneads.txt")).exists()), None)
    if not path:
        pytest.skip("enneads.txt is not in a folder of MICROGPT_DATA_DIR")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    tokenizer = train("bpe-vidya", lines, merges=500)
    assert (tokenizer.vocab_size, tokenizer.bos) == (580, 579)
    tokens, lengths = tokenizer.encode_batch(lines)
    assert 2.7 < sum(map(len, lines)) / len(tokens) < 2.8
    assert tokenizer.decode(tokens) == "".join(lines)
    assert lengths.sum() == len(tokens)
