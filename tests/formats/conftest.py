from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.config import Config
from microgpt.inference.generate import generate_tokens
from microgpt.inference.language_model import LanguageModel
from microgpt.inference.sampling import Sampling
from microgpt.model import init_weights
from microgpt.runs import checkpoint
from microgpt.tokenizers import Tokenizer
from microgpt.tokenizers.char import Char

LETTERS = "abcdefghijklmnopqrstuvwxyz"
Build = Callable[..., Path]
SERVICE = "modules['formats/templates/main.js'].service"  # of the page


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A model folder with random weights, large enough that all of the arithmetic shows in the logits."""

    def make(
        name: str = "model",
        tokenizer: Tokenizer | None = None,
        dtype: str = "float32",
        seed: int = 1,
        **options: Any,
    ) -> Path:
        tokenizer = tokenizer or Char(LETTERS)
        model = {"n_layer": 2, "n_embd": 16, "n_head": 2, "block_size": 24, "init_std": 0.4, **options}
        config = Config.from_dict({"name": name, "model": {**model, "vocab_size": tokenizer.vocab_size}})
        weights = {k: v.astype(dtype) for k, v in init_weights(config.model, Random(seed)).items()}
        moments = {f"{part}.{k}": np.full_like(v, 0.5) for part in ("m", "v") for k, v in weights.items()}
        (tmp_path / name).mkdir()
        return checkpoint.write(tmp_path / name, config, tokenizer, weights | moments, {"step": 7})

    return make


def logits(path: Path, ids: list[int]) -> np.ndarray:
    """Ours, in float64 from the weights as they are stored."""
    writer = LanguageModel.open(path, dtype="float64")
    return writer.engine.logits(writer.state, np.array(ids, np.int32), None)[0]


def greedy(path: Path, prompt: str) -> str:
    """Our continuation of a prompt at temperature 0."""
    writer = LanguageModel.open(path, dtype="float64")
    ids, _ = writer.encode(prompt)
    room, bos = writer.config.model.block_size, writer.tokenizer.bos
    drawn = generate_tokens(writer.engine, writer.state, ids, room, Sampling(temperature=0), Random(0), bos)
    return writer.tokenizer.decode(list(drawn))


CLASSIC = {"family": "classic"}
KGX = {"family": "classic", "activation": "relu2"}
MODERN = {"family": "modern"}
NANOCHAT = {"family": "nanochat"}


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Open a file as a page; whatever it says on the console or asks of the network fails the test."""
    noise: list[str] = []
    contexts = []

    def go(path: Path, **options: Any) -> Any:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on(
            "request",
            lambda request: noise.append(request.url) if request.url.partition("#")[0] != path.as_uri() else None,
        )
        page.goto(path.as_uri())
        page.locator("main[class]").wait_for()
        return page

    yield go
    for context in contexts:
        context.close()
    assert noise == []
