"""What Python programs use."""

from __future__ import annotations

from pathlib import Path

import pytest

import microgpt


def test_train_load_generate(given_names: Path, tmp_path: Path) -> None:
    config = microgpt.Config.of("names", data={"path": str(given_names)}, run={"steps": 30, "samples": 2})
    trained = microgpt.train(config, tmp_path / "run")
    assert (trained.step, len(trained.samples)) == (30, 2)
    model = microgpt.load(trained.path)
    again = ["".join(model.generate("em", seed=5, temperature=0.8, max_tokens=6)) for _ in range(2)]
    assert again[0] == again[1]
    assert len(again[0]) <= 6
    assert list(model.generate("", temperature=0.0, max_tokens=1))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        microgpt.nothing  # noqa: B018
