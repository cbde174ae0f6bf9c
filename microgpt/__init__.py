"""Learn, train and use small GPTs on the machine you have.

import microgpt

trained = microgpt.train(microgpt.Config.of("names", run={"steps": 200}), "runs/short")
model = microgpt.load(trained.path)
for piece in model.generate("em", temperature=0.8):
    print(piece, end="")

A model that was trained on conversations also answers: microgpt.load("runs/chat").answer("Who are you?").read()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microgpt.config import Config
    from microgpt.inference.chat import load
    from microgpt.training.train import train

__version__ = "0.1.0"
__all__ = ["Config", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    places = {"Config": "microgpt.config", "train": "microgpt.training.train", "load": "microgpt.inference.chat"}
    if name not in places:
        raise AttributeError(f"module 'microgpt' has no attribute {name!r}")
    return getattr(import_module(places[name]), name)


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
