"""What fewer bits cost: loss and bits per byte of a model as it is, and as it is after it was stored smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from microgpt import storage
from microgpt.checkpoint import Checkpoint
from microgpt.data import corpus
from microgpt.data.documents import read_documents
from microgpt.engines import choose
from microgpt.errors import MicrogptError
from microgpt.evaluate import held_out_loss
from microgpt.generate import Sampling, tokens
from microgpt.model import Tensors

Rounding = Callable[[Tensors, str], Tensors]  # what is left of tensors after they were stored so
MOST_DOCUMENTS = 1000
OWN_TEXTS = 64


def table(
    saved: Checkpoint, storages: Sequence[str], texts: list[str] | None = None, rounded: Rounding = storage.rounded
) -> tuple[list[dict[str, Any]], str]:
    """A row a storage, the model as it is first, and the words that say on what text it was measured.

    A row has storage, loss (nats a token) and bits_per_byte.
    """
    weights = saved.weights()
    texts, about = (texts, "the given text") if texts else _texts(saved, weights)
    rows = []
    for stored in (str(weights["wte"].dtype), *storages):
        loss, bits = measure(saved, rounded(weights, stored), texts)
        rows.append({"storage": stored, "loss": loss, "bits_per_byte": bits})
    return rows, about


def measure(saved: Checkpoint, weights: Tensors, texts: list[str]) -> tuple[float, float]:
    """The mean loss in nats a token, and in bits a byte of text."""
    config = saved.config
    choice = choose(config.model, config.optim, dtype=str(weights["wte"].dtype))
    engine = choice.cls(config.model, config.optim, dtype=choice.dtype, device=choice.device)
    feed = corpus.build(texts, saved.tokenizer, Random(0), trailing_bos=config.data.trailing_bos, val_fraction=0).feed(
        0, math.ceil(len(texts) / 64), min(64, len(texts)), config.model.block_size
    )
    loss = held_out_loss(engine, engine.load(weights), feed)
    n_bytes = len(saved.tokenizer.decode(feed.tokens[feed.scored].tolist()).encode())
    return loss, loss * feed.n_targets / (math.log(2) * max(1, n_bytes))


def _texts(saved: Checkpoint, weights: Tensors) -> tuple[list[str], str]:
    """Documents of the data the model was trained on, held-out ones if there are any; else what it writes itself."""
    data, seed = saved.config.data, saved.config.run.seed
    try:
        documents = read_documents(data).texts
        order = list(range(len(documents)))
        Random(seed).shuffle(order)
        held_out = round(len(documents) * (data.val_fraction or 0))
        chosen = order[-held_out:] if held_out else order
        texts = [documents[i] for i in chosen[:MOST_DOCUMENTS]]
        for text in texts:
            saved.tokenizer.encode(text)
        return texts, f"{len(texts)} {'held-out' if held_out else 'training'} documents"
    except MicrogptError:
        return _own(saved, weights), f"{OWN_TEXTS} texts of its own (its data is not here)"


def _own(saved: Checkpoint, weights: Tensors) -> list[str]:
    config, bos, rng = saved.config, saved.tokenizer.bos, Random(0)
    choice = choose(config.model, config.optim, dtype=str(weights["wte"].dtype))
    engine = choice.cls(config.model, config.optim, dtype=choice.dtype, device=choice.device)
    state = engine.load(weights)
    texts: list[str] = []
    while len(texts) < OWN_TEXTS:
        drawn = tokens(engine, state, [bos], config.model.block_size, Sampling(temperature=1.0), rng, bos)
        texts.append(saved.tokenizer.decode(list(drawn)))
    return texts
