"""How words are split, and how the lossy form puts spaces back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microgpt.tokenizers import train
from microgpt.tokenizers.word import LOSSLESS, LOSSY, SPACES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop_it, now!", ["Don", "'", "t", " ", "stop_it", ",", " ", "now", "!"]),
        ("a  b\n", ["a", " ", " ", "b", "\n"]),
        ("“Élan”—東京。", ["“", "Élan", "”", "—", "東京", "。"]),
        ("x² 3.14 €5 🙂", ["x²", " ", "3", ".", "14", " ", "€", "5", " ", "🙂"]),
    ],
)
def test_words_marks_and_spaces_are_tokens(text: str, words: list[str]) -> None:
    assert re.findall(LOSSLESS, text) == words
    assert re.findall(LOSSY, text) == [word for word in words if not word.isspace()]


@given(text=st.text())
def test_nothing_falls_between_the_tokens(text: str) -> None:
    assert "".join(re.findall(LOSSLESS, text)) == text


def test_spaces_are_where_python_splits() -> None:
    listed = {chr(point) for first, last in SPACES for point in range(first, last + 1)}
    assert listed == {chr(point) for point in range(0x110000) if chr(point).isspace()}


@given(text=st.text(alphabet=st.characters(max_codepoint=0x24F)))
def test_the_lossy_form_is_tgifridays_on_latin_text(text: str) -> None:
    assert re.findall(LOSSY, text) == re.findall(r"\w+|[^\w\s]", text)


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("Hello ,  world !", "Hello, world!"),
        ("a (b) [c] {d}", "a (b) [c] {d}"),
        ("it's", "it's"),
        ('he said "no"', 'he said"no"'),
        ("a - b", "a- b"),
    ],
)
def test_the_lossy_form_puts_spaces_by_its_rules(text: str, back: str) -> None:
    tokenizer = train("word-lossy", [text])
    assert tokenizer.decode(tokenizer.encode(text)) == back


def test_a_long_unknown_word_is_shown_in_part() -> None:
    with pytest.raises(Exception, match=r"^word 'x{39}…' at position 3 ") as caught:
        train("word", ["a b"]).encode("a " + "x" * 10**6)
    assert len(str(caught.value)) < 300
