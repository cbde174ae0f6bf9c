"""Tokenizers to test with, trained once, and the `tokenizers` library's reading of them."""

from __future__ import annotations

from functools import cache

import tokenizers
from hypothesis import strategies as st

from microgpt.tokenizers import KINDS, ROLES, Tokenizer, train

SAID = (
    "The quick brown fox jumps over the lazy dog's back; the fox (a red one) said: \"don't!\"",
    "the theory of the thing is that they thought of the other then",
    "aaaa aaa aa a  two  spaces, <bos> and <end_turn> in the text\tand a tab",
    "Ünïcödé: naïve café, 東京 東京, été été, 🙂🙂 x² 10,000 100 1000",
)
TEXTS = [*SAID] * 3
EXACT = [kind for kind in KINDS if kind not in ("word-lossy", "bpe-words")]
BPE = [kind for kind in KINDS if kind.startswith("bpe")]
LITERALS = ["<bos>", "<unk>", *(f"<{role}>" for role in ROLES)]


@cache
def trained(kind: str, roles: bool = False, unk: bool = False) -> Tokenizer:
    merges = 60 if kind.startswith("bpe") else None
    return train(kind, TEXTS, merges=merges, roles=roles, unk=unk)


@cache
def library(kind: str, roles: bool = False, unk: bool = False) -> tokenizers.Tokenizer:
    opened = tokenizers.Tokenizer.from_str(trained(kind, roles, unk).to_json().decode())
    opened.encode_special_tokens = True  # text is text
    return opened


words = sorted({word for text in TEXTS for word in text.split()})
known = st.lists(
    st.sampled_from(
        ["the", "fox", "a", "aa", " ", "  ", ",", "(", ")", "'", '"', "!", "東京", "🙂", "x²", "\t", "1000", "é"]
    )
).map("".join)
"""Text of characters that all tokenizers know."""

anything = st.text() | st.lists(st.sampled_from([*LITERALS, "<", "bos>", " ", "a"])).map("".join)
"""Any Unicode text, and text with the special tokens' own."""
