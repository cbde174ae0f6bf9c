"""The one stream: the same texts alone, in turn and on the fast path; where a text ends, and what is counted."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from microgpt.engines.ladder import LADDER, engine
from microgpt.errors import MachineError
from microgpt.inference.language_model import LanguageModel


@pytest.fixture(scope="module", params=LADDER)
def model(request: pytest.FixtureRequest, names_run: Path) -> LanguageModel:
    try:
        engine(request.param)
    except MachineError:
        pytest.skip(f"{request.param} is not installed")
    return LanguageModel.open(names_run, engine=request.param)


def texts(model: LanguageModel, rng: Random, **options: object) -> list[list[str]]:
    prompt, _ = model.encode("em")
    return [list(pieces) for pieces in model.texts(prompt, 6, model.sampling(), rng, **options)]  # type: ignore[arg-type]


def test_several_texts_are_those_of_the_stream(model: LanguageModel) -> None:
    rngs = [Random(5), Random(5), Random(5)]
    prompt, _ = model.encode("em")
    streamed = [model.stream(prompt, model.sampling(), rngs[0]).read() for _ in range(6)]
    assert len(set(streamed)) > 1
    assert ["".join(pieces) for pieces in texts(model, rngs[1])] == streamed
    assert ["".join(pieces) for pieces in texts(model, rngs[2], live=True)] == streamed
    assert rngs[0].getstate() == rngs[1].getstate() == rngs[2].getstate()


def test_each_text_ends_before_a_stop(model: LanguageModel) -> None:
    whole = ["".join(pieces) for pieces in texts(model, Random(5), max_tokens=9)]
    letter = max("".join(whole), key="".join(whole).count)
    assert all(letter not in "".join(pieces) for pieces in texts(model, Random(5), max_tokens=9, stops=[letter]))


def test_what_is_counted(model: LanguageModel) -> None:
    prompt, dropped = model.encode("em")
    assert (len(prompt), dropped) == (3, 0)
    for seed in range(9):
        text = model.stream(prompt, model.sampling(), Random(seed), max_tokens=4)
        assert (text.completion_tokens, text.finish_reason, text.text) == (0, None, "")
        assert text.read() == text.text
        assert text.completion_tokens == len(text.text)
        assert text.finish_reason == ("length" if len(text.text) == 4 else "stop")
    long = model.generate("em" * 20)
    assert long.tokens_dropped == 40 - (16 - 1 - 4)
    assert long.prompt_tokens == 16 - 4
