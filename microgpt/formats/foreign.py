"""A model of another program, and the steps that its readers share: sizes, tensors and tokenizer.

The sizes that a file states are compared with its own size before memory is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microgpt import files
from microgpt.config import READING, Config
from microgpt.errors import CheckpointError, DataError, UsageError
from microgpt.formats.byte_level import is_byte_level
from microgpt.model import Tensors
from microgpt.tokenizers import MAX_BYTES, Tokenizer, read
from microgpt.tokenizers.byte_letters import LETTERS

DATA = "microgpt_data"
LONGEST = 2**20  # tokens of context; a cache is made for all of them


@dataclass(frozen=True, slots=True)
class Foreign:
    """A model of another program, converted."""

    source: str
    config: Config
    tokenizer: Tokenizer
    weights: Tensors
    moments: Tensors
    step: int
    notes: list[str]


def sizes(given: Any, where: str, names: dict[str, str]) -> dict[str, int]:
    """The model's sizes from a file's keys; `names` maps ours to the file's. Raises CheckpointError."""
    if not isinstance(given, dict):
        raise CheckpointError(f"{where}: expected an object with {', '.join(names.values())}")
    out = {}
    for ours, theirs in names.items():
        value = given.get(theirs)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{where}: {theirs} must be a whole number above 0, got {value!r}")
        out[ours] = value
    if out["block_size"] > LONGEST:
        raise CheckpointError(f"{where}: {names['block_size']} must be at most {LONGEST:,}, got {out['block_size']:,}")
    return out


def reading(config: Config) -> dict[str, Any]:
    """Our key beside those of another program: how the model's texts are read; none where that is the default."""
    return {DATA: config.data.reading} if config.data.reading else {}


def configure(
    name: str, model: dict[str, Any], file_size: int, where: str, given: dict[str, Any], **sections: Any
) -> Config:
    """A configuration whose model can lie in a file of `file_size` bytes; `given` are the file's keys, which may say
    how texts are read. Raises CheckpointError."""
    data = given.get(DATA, {})
    if not isinstance(data, dict) or not data.keys() <= READING:
        raise CheckpointError(f"{where}: {DATA} says how texts are read; expected keys of {', '.join(sorted(READING))}")
    least = model["n_layer"] * 12 * model["n_embd"] ** 2 + model["vocab_size"] * model["n_embd"]
    if least > file_size:  # even at one byte per number
        raise CheckpointError(f"{where}: sizes of at least {least} numbers, but the weights have {file_size} bytes")
    try:
        return Config.from_dict({"name": name, "model": model, "data": data, **sections})
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from None


def in_order(tensors: Tensors, order: np.ndarray) -> Tensors:
    """The tensors with the rows of the tables (wte, lm_head and their moments) taken in this order."""
    tables = ("wte", "lm_head")
    return {name: values[order] if name.rpartition(".")[2] in tables else values for name, values in tensors.items()}


def char_tokenizer(chars: Any, vocab: int, where: str, special: tuple[str, ...] = ("bos",)) -> Tokenizer:
    """The character tokenizer of a file's list, which must have `vocab` tokens. Raises CheckpointError."""
    from microgpt.tokenizers.char import Char

    if not isinstance(chars, list) or not all(isinstance(char, str) and len(char) == 1 for char in chars):
        raise CheckpointError(f"{where}: the characters must be a list of single characters")
    if any("\ud800" <= char <= "\udfff" for char in chars):
        raise CheckpointError(f"{where}: half a surrogate pair among the characters")
    try:
        tokenizer = Char("".join(chars), special)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None
    if tokenizer.vocab_size != vocab:
        raise CheckpointError(f"{where}: {tokenizer.vocab_size} tokens, but vocab_size is {vocab}")
    return tokenizer


def read_tokenizer(path: Path, vocab: int, bos: Any = None) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer.json of folder `path`, which must have `vocab` tokens, and the order of the tables' rows.

    Our vocabulary comes before the special tokens, BOS last; other programs order them differently. Our token i
    takes row order[i]. `bos` is the id that the folder calls BOS, where it says so. Raises CheckpointError.
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
            tokenizer, order = _byte_level_bpe(content, bos)
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as reason:
            raise CheckpointError(f"{error}, nor a byte-level BPE with one token for BOS ({reason})") from None
        tokenizer = read(tokenizer.to_json(), str(file))
    if tokenizer.vocab_size != vocab:
        raise CheckpointError(f"{file}: {tokenizer.vocab_size} tokens, but the model has {vocab}")
    return tokenizer, order


def _byte_level_bpe(content: dict[str, Any], bos: Any) -> tuple[Tokenizer, np.ndarray]:
    """A BPE over bytes whose special tokens lie elsewhere. Raises one of the errors above with the reason."""
    from microgpt.tokenizers.bpe import Bpe

    if content["model"]["type"] != "BPE" or not is_byte_level(content):
        raise ValueError("no BPE over bytes with GPT-2's pattern")
    if content.get("normalizer") is not None:
        raise ValueError("it normalizes the text")
    special: dict[int, str] = {token["id"]: str(token["content"]) for token in content["added_tokens"]}
    vocab: dict[str, int] = {**content["model"]["vocab"], **{text: i for i, text in special.items()}}
    bos = vocab.get("<bos>") if bos is None else bos
    if bos not in special:
        raise ValueError(f"BOS {bos!r} is no special token")
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in content["model"]["merges"]]
    texts = [*LETTERS.values(), *(left + right for left, right in merges)]
    others = {i: text.strip("<|>") for i, text in special.items() if i != bos}
    order = [*(vocab[text] for text in texts), *others, bos]
    if sorted(order) != list(range(len(vocab))):
        raise ValueError("tokens that are neither bytes, merges nor special")
    ids = {text: i for i, text in enumerate(texts)}
    pairs = [(ids[left], ids[right]) for left, right in merges]
    return Bpe("bpe", texts[:256], pairs, (*others.values(), "bos")), np.array(order)
