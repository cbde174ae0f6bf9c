"""A tokenizer of microgpt, where possible, as the byte-level BPE of GPT-2 that llama.cpp runs.

Its alphabet is the 256 bytes, each written as a printable letter. A character tokenizer can be one, too: characters
of one byte are tokens, longer ones are merged from their bytes.
"""

from __future__ import annotations

from typing import Any

from microgpt.tokenizers.byte_letters import LETTERS

Vocabulary = tuple[list[str], list[str], list[str]]  # tokens by id, merges, and which tokens are special


def spelled(text: str) -> str:
    """A text's bytes as letters of the alphabet."""
    return "".join(LETTERS[byte] for byte in text.encode())


def as_byte_level(content: dict[str, Any]) -> tuple[Vocabulary | None, str | None]:
    """The vocabulary of a tokenizer.json, or the reason why there is none."""
    special = {token["id"]: token["content"] for token in content["added_tokens"]}
    model = content["model"]
    vocab: dict[str, int] = {**model["vocab"], **{text: i for i, text in special.items()}}
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        return None, "its ids have holes"
    if model["type"] == "BPE":
        if not is_byte_level(content):
            return None, "its BPE does not work on bytes, or splits text by another pattern than GPT-2"
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        return (tokens, merges, list(special.values())), None
    if any(len(token) != 1 for token in tokens if vocab[token] not in special):
        return None, "tokens are words"
    merges = []
    for token in tokens:
        letters = "" if vocab[token] in special else spelled(token)
        merges += [f"{letters[:n]} {letters[n]}" for n in range(1, len(letters))]
    spellings = [token if vocab[token] in special else spelled(token) for token in tokens]
    if len(set(spellings)) != len(spellings):
        return None, "a character and a special token have the same name"
    return (spellings, list(dict.fromkeys(merges)), list(special.values())), None


def is_byte_level(content: dict[str, Any]) -> bool:
    """Whether a BPE works on bytes within the pieces of GPT-2's pattern (`ByteLevel` with its regex)."""
    pre = content.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    levels = [step for step in steps if step.get("type") == "ByteLevel"]
    return len(steps) == len(levels) == 1 and levels[0].get("use_regex", True) and not levels[0].get("add_prefix_space")
