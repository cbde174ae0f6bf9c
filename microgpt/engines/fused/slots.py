"""The sequences that the kernel `decode` continues: one, or many side by side that come and go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from microgpt.engines.fused.layout import Shape
from microgpt.engines.fused.prefixes import MIN_PREFIX, Prefixes
from microgpt.engines.fused.state import at, empty

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Array = np.ndarray
MIN_SHARED = 1 << 26  # weights times sequences of a step from which several threads are faster than one
SHARES = 4  # of such a step per thread: one whose core does other work takes fewer
GROUP = 1 << 25  # bytes of places that are allocated at once, in huge pages, which are read faster; of spare caches


class Call:
    """The arrays of a call of `decode`, of up to N tokens in up to n rows, with their addresses.

    They are kept from call to call, since asking for an address takes a microsecond.
    """

    def __init__(self, N: int, n: int, vocab: int, workspace: int, operands: int, dtype: str) -> None:
        self.N = N
        self.tokens = np.zeros(max(N, 2 * n), np.int32)  # every row has one token more, which is not read
        self.offsets, self.starts, self.past = np.arange(n + 1) * 2, np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.workspace, self.operands = empty(workspace, dtype), empty(operands, dtype)
        self.logits = np.empty((N, vocab), dtype)
        self.inputs = at(self.tokens), at(self.offsets)
        self.rooms = at(self.workspace), at(self.operands)
        self.places = at(self.starts), at(self.past)
        self.outputs = at(self.logits)


class Cache:
    """Keys and values (2, layers, Dp, width) of one sequence; `length` positions are computed."""

    def __init__(self, size: int, dtype: str) -> None:
        self.length = 0
        self.flat = empty(size, dtype)
        self.address = at(self.flat)
        self.call: Call | None = None  # of a sequence that is continued alone


Decode = Callable[[Call, int, int, bool, int], None]  # see Engine._decode


class Slots:
    """See microgpt.engines.Slots. `prefix_bytes`: of the caches of prompts that are kept to be used again.

    A prompt's keys and values are computed in a Cache, whose layout suits long rows, then copied to the slot's place,
    whose layout suits single tokens; the Cache is kept, see prefixes.py. A prompt of several tokens is computed in
    pieces of at least two: with a single query, sums have another order. Threads share the sequences of a large step,
    whose logits do not depend on how.
    """

    def __init__(
        self, decode: Decode, call: Callable[[int, int], Call], c: Shape, width: int, lanes: int, dtype: str, n: int,
        prefix_bytes: int, threads: int,
    ) -> None:  # fmt: skip
        self.decode, self.new_call, self.lanes, self.dtype = decode, call, lanes, dtype
        self.size = 2 * c.layers * c.Dp * width  # numbers of a cache
        self.form = 2 * c.layers, c.Dp, c.H, c.size, width
        self.free, self.prompts, self.prefilling = list(range(n))[::-1], dict[int, Array](), dict[int, Cache]()
        self.per_group = max(1, min(n, GROUP // (self.size * np.dtype(dtype).itemsize)))
        self.groups: list[Array] = []
        self.starts, self.past = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.one, self.many = call(1, 1), [call(n, n)]  # the calls of a step, one per thread
        self.most, self.weights = n, c.n
        self.threads = threads  # of a large step
        self.pool: ThreadPoolExecutor | None = None
        self.spare: list[Cache] = []
        self.prefixes = Prefixes[Cache](prefix_bytes // (self.size * np.dtype(dtype).itemsize), c.block)

    def admit(self, tokens: Sequence[int]) -> int:
        if not self.free:
            raise ValueError(f"all {len(self.prompts)} slots are in use; release one first")
        slot = self.free.pop()
        self.prompts[slot] = np.array(tokens, dtype=np.int32)
        return slot

    def prefill(self, slot: int, limit: int) -> Array | None:
        prompt, cache = self.prompts[slot], self.prefilling.get(slot) or self._begin(slot)
        T = min(max(limit, 2), len(prompt) - cache.length)
        if cache.length + T + 1 == len(prompt):
            T += 1
        if self.one.N < T:
            self.one = self.new_call(T, 1)
        call, end = self.one, cache.length + T
        call.tokens[:T], call.offsets[1], call.past[0] = prompt[cache.length : end], T + 1, cache.length
        self.decode(call, 1, cache.address, False, T - 1 if end == len(prompt) else T)
        cache.length = end
        if end < len(prompt):
            return None
        self._settle(slot, cache)
        return call.logits[0].copy()

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> Array:
        n, which, fresh = len(slots), np.asarray(slots), np.asarray(tokens)
        out = np.empty((n, self.many[0].logits.shape[1]), self.dtype)
        pool = self.pool or self._begin_team() if self.threads > 1 and n * self.weights >= MIN_SHARED else None
        if pool is None:
            self._continue(self.many[0], which, fresh, out)
            return out
        share = -(-n // (SHARES * self.threads))
        left = deque(slice(first, first + share) for first in range(0, n, share))

        def work(call: Call) -> None:
            while True:
                try:
                    part = left.popleft()
                except IndexError:
                    return
                self._continue(call, which[part], fresh[part], out[part])

        others = [pool.submit(work, call) for call in self.many[1:]]
        work(self.many[0])
        for other in others:
            other.result()
        return out

    def _begin_team(self) -> ThreadPoolExecutor | None:
        """Further threads, with calls of their own; None where the system gives no more."""
        from concurrent.futures import ThreadPoolExecutor

        share, others = -(-self.most // (SHARES * self.threads)), self.threads - 1
        pool = ThreadPoolExecutor(others, "decode")
        try:
            list(pool.map(time.sleep, [0.001] * others))  # they begin now
        except RuntimeError:
            self.threads = 1
            return None
        self.many += [self.new_call(share, share) for _ in range(others)]
        self.pool = pool
        return pool

    def _continue(self, call: Call, which: Array, tokens: Array, out: Array) -> None:
        """A step of some sequences: their logits (n, V)."""
        n = len(which)
        call.tokens[: 2 * n : 2] = tokens
        call.starts[:n], call.past[:n] = self.starts[which], self.past[which]
        self.decode(call, n, at(self.groups[0]), True, 0)
        self.past[which] += 1
        out[:] = call.logits[:n]

    def release(self, slot: int) -> None:
        del self.prompts[slot]
        self._spare(self.prefilling.pop(slot, None))
        self.free.append(slot)

    def _begin(self, slot: int) -> Cache:
        """A prompt's cache, with what is kept by now: of prompts admitted together one computes what they share."""
        cache = self.prefilling[slot] = self.spare.pop() if self.spare else Cache(self.size, self.dtype)
        cache.length, kept = self.prefixes.longest(self.prompts[slot][:-2])
        if kept is not None:
            self._channels(cache)[..., : cache.length] = self._channels(kept)[..., : cache.length]
        return cache

    def _spare(self, cache: Cache | None) -> None:
        if cache and len(self.spare) * cache.flat.nbytes < GROUP:
            self.spare.append(cache)

    def _channels(self, cache: Cache) -> Array:
        """Keys and values (2 layers, H, size, width)."""
        matrices, Dp, H, size, width = self.form
        return cache.flat.reshape(matrices, Dp, width)[:, : H * size].reshape(matrices, H, size, width)

    def _settle(self, slot: int, cache: Cache) -> None:
        """Copy a prompt's keys and values to the slot, in blocks of W positions, and keep or free its cache."""
        group, number = divmod(slot, self.per_group)
        while len(self.groups) <= group:
            self.groups.append(empty(self.per_group * self.size, self.dtype))
        place = self.groups[group][number * self.size : (number + 1) * self.size]
        self.starts[slot] = (at(place) - at(self.groups[0])) // place.itemsize
        self.past[slot] = cache.length
        matrices, Dp, H, size, width = self.form
        W = self.lanes
        blocks = -(-cache.length // W)
        to = place.reshape(matrices, Dp, width)[:, : H * size].reshape(matrices, H, width // W, size, W)
        found = self._channels(cache).reshape(matrices, H, size, width // W, W)
        to[:, :, :blocks] = found[:, :, :, :blocks].swapaxes(2, 3)
        del self.prefilling[slot]
        self._spare(self.prefixes.keep(self.prompts[slot], cache) if cache.length >= MIN_PREFIX else cache)
