"""Slots of any engine, one call per text: a stand-in until microgpt.inference.slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from microgpt.engines import Engine


def open_slots(engine: Engine, state: Any, n: int) -> PlainSlots:
    """Slots for n texts."""
    return PlainSlots(engine, state, n)


class PlainSlots:
    """A cache per text."""

    def __init__(self, engine: Engine, state: Any, n: int) -> None:
        self._engine, self._state = engine, state
        self._free = list(range(n))
        self._caches: dict[int, Any] = {}
        self._prompts: dict[int, list[int]] = {}

    def admit(self, tokens: Sequence[int]) -> int:
        """A slot for a text that begins with these tokens."""
        slot = self._free.pop()
        self._caches[slot], self._prompts[slot] = None, list(tokens)
        return slot

    def prefill(self, slot: int, limit: int) -> np.ndarray | None:
        """Compute up to `limit` of the slot's tokens; after the last one the logits (V,), before None."""
        left = self._prompts[slot]
        logits = self._next(slot, left[:limit])
        self._prompts[slot] = left[limit:]
        return None if self._prompts[slot] else logits

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """The logits (n, V) after one more token in each of n slots."""
        return np.stack([self._next(slot, [token]) for slot, token in zip(slots, tokens, strict=True)])

    def release(self, slot: int) -> None:
        """Free a slot."""
        del self._caches[slot], self._prompts[slot]
        self._free.append(slot)

    def _next(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        logits, self._caches[slot] = self._engine.logits(
            self._state, np.array(tokens, dtype=np.int32), self._caches[slot]
        )
        return logits[-1].copy()
