"""A folder's tokenizer.json as one of our tokenizers, and where its tokens lie in the folder's tables.

Ours put the vocabulary first, then the special tokens, BOS last; others put them elsewhere. Rows of the tables
follow: our token i takes row order[i].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.errors import CheckpointError, DataError
from microgpt.formats.byte_level import alphabet, byte_level
from microgpt.tokenizers import MAX_BYTES, Tokenizer, read


def read_tokenizer(path: Path, vocab: int, bos: Any = None) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer of folder `path`, which must have `vocab` tokens, and the order of the rows.

    `bos` is the id that the folder calls BOS, where it says so. Raises CheckpointError.
    """
    file = path / "tokenizer.json"
    content = files.read_json(file, MAX_BYTES)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: not a tokenizer.json")
    content["post_processor"] = None  # it puts BOS before a text, as our commands do
    try:
        tokenizer, order = read(files.to_json(content), str(file)), np.arange(vocab)
    except CheckpointError as error:
        try:
            tokenizer, order = _byte_level(content, bos)
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as reason:
            raise CheckpointError(f"{error}, nor a byte-level BPE with one token for BOS ({reason})") from None
        tokenizer = read(tokenizer.to_json(), str(file))
    if tokenizer.vocab_size != vocab:
        raise CheckpointError(f"{file}: {tokenizer.vocab_size} tokens, but the model has {vocab}")
    return tokenizer, order


def _byte_level(content: dict[str, Any], bos: Any) -> tuple[Tokenizer, np.ndarray]:
    """A BPE over bytes whose special tokens lie elsewhere. Raises one of the errors above with the reason."""
    from microgpt.tokenizers.bpe import Bpe

    if content["model"]["type"] != "BPE" or not byte_level(content):
        raise ValueError("no BPE over bytes after GPT-2's pattern")
    if content.get("normalizer") is not None:
        raise ValueError("it changes the text before it cuts it")
    special: dict[int, str] = {token["id"]: str(token["content"]) for token in content["added_tokens"]}
    vocab: dict[str, int] = {**content["model"]["vocab"], **{text: i for i, text in special.items()}}
    bos = vocab.get("<bos>") if bos is None else bos
    if bos not in special:
        raise ValueError(f"BOS {bos!r} is no special token")
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in content["model"]["merges"]
    ]
    texts = [*alphabet_in_order(), *(left + right for left, right in merges)]
    others = {i: text.strip("<|>") for i, text in special.items() if i != bos}
    order = [*(vocab[text] for text in texts), *others, bos]
    if sorted(order) != list(range(len(vocab))):
        raise ValueError("tokens that neither are bytes, merges nor special")
    ids = {text: i for i, text in enumerate(texts)}
    pairs = [(ids[left], ids[right]) for left, right in merges]
    return Bpe("bpe", texts[:256], pairs, (*others.values(), "bos")), np.array(order)


def alphabet_in_order() -> list[str]:
    """The letters of the bytes in the order of our ids: those that stand for themselves, then the others."""
    return sorted(alphabet().values())
