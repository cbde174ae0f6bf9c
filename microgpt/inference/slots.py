"""Many sequences side by side, entered and left at any step: the engine's own slots, or a plain adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from microgpt.engines import Engine, Slots

PREFIX_BYTES = 256 << 20  # of the caches of prompts that are kept for others that begin alike


def open_slots(engine: Engine, state: Any, n: int, *, prefix_bytes: int = PREFIX_BYTES) -> Slots:
    """Slots for n sequences of the state's model: the engine's fast path where it has one.

    Up to `prefix_bytes` of memory keep the caches of prompts, beside those of the n sequences.
    """
    return engine.slots(state, n, prefix_bytes) if engine.slots else PlainSlots(engine, state, n)


class PlainSlots:
    """Slots on top of `Engine.logits`, one sequence after another.

    A prompt is computed in one call whatever the limit, since a sum over other shapes may differ in its last bits.
    """

    def __init__(self, engine: Engine, state: Any, n: int) -> None:
        self.engine, self.state = engine, state
        self.free = list(range(n))[::-1]
        self.prompts: dict[int, np.ndarray] = {}  # of the slots in use
        self.caches: dict[int, Any] = {}  # of those whose prompts are done

    def admit(self, tokens: Sequence[int]) -> int:
        """See microgpt.engines.Slots, for all four."""
        if not self.free:
            raise ValueError(f"all {len(self.prompts)} slots are in use; release one first")
        slot = self.free.pop()
        self.prompts[slot] = np.array(tokens, dtype=np.int32)
        return slot

    def prefill(self, slot: int, limit: int) -> np.ndarray | None:
        logits, self.caches[slot] = self.engine.logits(self.state, self.prompts[slot])
        return logits[-1]

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        rows = []
        for slot, token in zip(slots, tokens, strict=True):
            fresh = np.array([token], dtype=np.int32)
            logits, self.caches[slot] = self.engine.logits(self.state, fresh, self.caches[slot])
            rows.append(logits[-1])
        return np.stack(rows)

    def release(self, slot: int) -> None:
        del self.prompts[slot]
        self.caches.pop(slot, None)
        self.free.append(slot)
