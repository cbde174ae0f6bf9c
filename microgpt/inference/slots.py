"""Many sequences side by side, entered and left at any step: the engine's own slots, or a plain adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from microgpt.engines import Engine, Slots
from microgpt.engines.ensemble import Ensemble, mean_logits

PREFIX_BYTES = 256 << 20  # of the caches of prompts that are kept for others that begin alike


def open_slots(engine: Engine, state: Any, n: int, *, prefix_bytes: int = PREFIX_BYTES) -> Slots:
    """Slots for n sequences of the state's model: the engine's fast path where it has one.

    Up to `prefix_bytes` of memory keep the caches of prompts, beside those of the n sequences.
    """
    if isinstance(engine, Ensemble):
        share = prefix_bytes // len(engine.members)
        members = zip(engine.members, state, strict=True)
        return EnsembleSlots([open_slots(member, own, n, prefix_bytes=share) for member, own in members])
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


class EnsembleSlots:
    """Slots of several models as one: a slot is one of each, and its logits are those of Ensemble."""

    def __init__(self, members: Sequence[Slots]) -> None:
        self.members = members
        self.slots: dict[int, list[int]] = {}  # those of the members; each is named by the first one's
        self.done: dict[int, list[np.ndarray | None]] = {}  # the members' logits (V,) after prompts not done by all

    def admit(self, tokens: Sequence[int]) -> int:
        """See microgpt.engines.Slots, for all four."""
        own: list[int] = []
        try:
            for member in self.members:
                own.append(member.admit(tokens))
        except BaseException:
            for member, slot in zip(self.members, own, strict=False):
                member.release(slot)
            raise
        self.slots[own[0]], self.done[own[0]] = own, [None] * len(own)
        return own[0]

    def prefill(self, slot: int, limit: int) -> np.ndarray | None:
        done = self.done[slot]
        for i, (member, own) in enumerate(zip(self.members, self.slots[slot], strict=True)):
            if done[i] is None:
                done[i] = member.prefill(own, limit)
        found = [logits for logits in done if logits is not None]
        return mean_logits(found) if len(found) == len(done) else None

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        columns = zip(*(self.slots[slot] for slot in slots), strict=True)
        return mean_logits([member.step(own, tokens) for member, own in zip(self.members, columns, strict=True)])

    def release(self, slot: int) -> None:
        del self.done[slot]
        for member, own in zip(self.members, self.slots.pop(slot), strict=True):
            member.release(own)
