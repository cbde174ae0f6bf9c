from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from microgpt.config import Config
from microgpt.training.train import train

PAIRS = [("hi", "hello there"), ("how are you", "fine thanks"), ("bye", "see you"), ("who are you", "a small model")]


def conversations(n: int = 40) -> list[list[dict[str, str]]]:
    """Talk that a tiny model learns by heart."""
    out = []
    for i in range(n):
        talk = [{"role": "system", "content": "be nice"}] if i % 5 == 0 else []
        for question, answer in (PAIRS[i % 4], PAIRS[(i * 3 + 1) % 4]):
            talk += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        out.append(talk)
    return out


def write(path: Path, talks: list[Any]) -> Path:
    path.write_text("".join(json.dumps(talk) + "\n" for talk in talks), encoding="utf-8")
    return path


def tiny(data: Path, **sections: Any) -> Config:
    """A small configuration of conversations."""
    base: dict[str, Any] = {
        "name": "tiny",
        "data": {"path": str(data)},
        "model": {"block_size": 64, "n_embd": 16, "n_head": 2, "init_std": 0.1},
        "optim": {"learning_rate": 0.02},
        "run": {"steps": 150, "batch_size": 4, "dtype": "float64", "samples": 1},
    }
    return Config.from_dict(
        {key: {**value, **sections.get(key, {})} if isinstance(value, dict) else value for key, value in base.items()}
    )


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of conversations."""
    return write(tmp_path_factory.mktemp("data") / "talks.jsonl", conversations())


@pytest.fixture(scope="session")
def chat_run(talks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained chat model."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny(talks), out)
    return out


@pytest.fixture(scope="session")
def names_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that never saw a conversation."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("em\nemma\nolivia\nava\n" * 5, encoding="utf-8")
    config = Config.from_dict({"data": {"path": str(folder / "names.txt")}, "run": {"steps": 5, "samples": 0}})
    train(config, folder / "run")
    return folder / "run"
