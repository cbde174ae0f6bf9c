"""Many sequences side by side: the logits of each are those it has alone, bit for bit, whatever the others do."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from microgpt.config import Model, Optim
from microgpt.engines import Engine
from microgpt.engines.ladder import LADDER, engine
from microgpt.errors import MachineError
from microgpt.inference.generate import generate_tokens
from microgpt.inference.sampling import Sampling, draw_batch
from microgpt.inference.slots import open_slots
from microgpt.model import init_weights

N = 5
TINY = {"vocab_size": 11, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 8, "init_std": 0.5}
FAST = ("manual", "fused", "pytorch")  # the others would take minutes; one short sequence is enough for them


def built(rung: str, dtype: str, **options: Any) -> tuple[Any, Any, Model]:
    """An engine, the state of a model with large initial weights, and the model."""
    model = Model(**{**TINY, **options})
    try:
        made = engine(rung)(model, Optim(), dtype=dtype)
    except MachineError as error:
        pytest.skip(str(error))
    return made, made.load(init_weights(model, Random(1))), model


class Sequences:
    """Sequences of a model that are driven through slots, each compared with `Engine.logits` of it alone."""

    def __init__(self, made: Engine, state: Any, model: Model, seed: int) -> None:
        self.engine, self.state, self.model, self.rng = made, state, model, Random(seed)
        self.slots = open_slots(made, state, N)
        self.texts = [[self.rng.randrange(model.vocab) for _ in range(model.block_size)] for _ in range(3)]
        self.waiting: list[tuple[int, list[int]]] = []  # slot and prompt
        self.caches: dict[int, tuple[Any, int]] = {}  # of the running ones: the reference's cache, and the length
        self.compared = 0

    def _alone(self, slot: int, tokens: list[int], logits: np.ndarray) -> None:
        cache, length = self.caches.get(slot, (None, 0))
        want, cache = self.engine.logits(self.state, np.array(tokens, np.int32), cache)
        np.testing.assert_array_equal(logits, want[-1])
        self.caches[slot] = cache, length + len(tokens)
        self.compared += 1

    def admit(self, prompt: list[int]) -> None:
        slot = self.slots.admit(prompt)
        assert slot not in self.caches
        assert slot not in [other for other, _ in self.waiting]
        self.waiting.append((slot, prompt))

    def prefill(self, limit: int) -> None:
        slot, prompt = self.waiting[0]
        logits = self.slots.prefill(slot, limit)
        if logits is not None:
            self.waiting.pop(0)
            self._alone(slot, prompt, logits)

    def step(self) -> None:
        room = [slot for slot, (_, length) in self.caches.items() if length < self.model.block_size]
        chosen = self.rng.sample(room, self.rng.randint(0, len(room)))
        if chosen:
            tokens = [self.rng.randrange(self.model.vocab) for _ in chosen]
            for slot, token, logits in zip(chosen, tokens, self.slots.step(chosen, tokens), strict=True):
                self._alone(slot, [token], logits)

    def release(self, slot: int) -> None:
        self.slots.release(slot)
        self.waiting = [pair for pair in self.waiting if pair[0] != slot]
        self.caches.pop(slot, None)

    def anything(self) -> None:
        """An arrival, a piece of a prompt, a step or a departure, at random."""
        rng, used = self.rng, [*self.caches, *(slot for slot, _ in self.waiting)]
        what = rng.random()
        if what < 0.2 and len(used) < N:
            most = self.model.block_size
            length = min(most, rng.choice([1, 2, 3, most, rng.randint(1, most)]))
            prompt = rng.choice(self.texts)[:length]  # several begin alike, for engines that make use of it
            prompt[rng.randrange(length)] = rng.randrange(self.model.vocab)
            self.admit(prompt)
        elif what < 0.5 and self.waiting:
            self.prefill(rng.choice([1, 2, 3, 7, 99]))
        elif what < 0.58 and used:
            self.release(rng.choice(used))
        else:
            self.step()


@pytest.mark.parametrize(("rung", "dtype"), [(rung, dtype) for rung in FAST for dtype in LADDER[rung].dtypes])
def test_a_sequence_does_not_depend_on_the_others(rung: str, dtype: str) -> None:
    width = 32 if dtype == "bfloat16" else 8  # see the engines' remarks
    for seed, position in enumerate(("learned", "rope")):
        sequences = Sequences(*built(rung, dtype, position=position, n_embd=width), seed)
        for _ in range(150):
            sequences.anything()
        assert sequences.compared > 50


@pytest.mark.parametrize(
    ("rung", "dtype"),
    [(r, d) for r in FAST for d in ("float32", *LADDER[r].infers) if "float32" in LADDER[r].dtypes],
)
def test_the_tokens_of_a_seed_are_those_that_it_has_alone(rung: str, dtype: str) -> None:
    """What the terminal draws for seed s, drawn beside others that came earlier and leave later."""
    width = 40 if dtype == "int8" else 8  # alone, products of 40 are of one row and eight vectors
    made, state, model = built(rung, dtype, position="rope", n_embd=width)
    bos, samplings = model.vocab - 1, [Sampling(0.5), Sampling(1.0), Sampling(0.0), Sampling(0.8, top_k=4)]
    slots, running = open_slots(made, state, N), dict[int, tuple[int, list[int], Random]]()
    drawn: dict[int, list[int]] = {}
    upcoming = iter(range(12))
    while True:
        while len(running) < N and (seed := next(upcoming, None)) is not None:
            slot = slots.admit([bos, seed % 3])
            logits = slots.prefill(slot, 99)
            assert logits is not None
            running[slot], drawn[seed] = (seed, [bos, seed % 3], Random(seed)), []
            first = draw_batch(logits[None], [samplings[seed % 4]], [running[slot][2]], [[bos, seed % 3]])
            drawn[seed] += first
        going = [slot for slot, (seed, *_) in running.items() if drawn[seed][-1] != bos]
        for slot in set(running) - set(going):
            slots.release(slot)
            drawn[running.pop(slot)[0]].pop()
        going = [slot for slot in going if 2 + len(drawn[running[slot][0]]) <= model.block_size]
        for slot in set(running) - set(going):
            slots.release(slot)
            running.pop(slot)
        if not running:  # all ended in the same step
            if len(drawn) == 12:
                break
            continue
        seeds = [running[slot][0] for slot in going]
        rows = slots.step(going, [drawn[seed][-1] for seed in seeds])
        seen = [running[slot][1] + drawn[running[slot][0]] for slot in going]
        found = draw_batch(rows, [samplings[seed % 4] for seed in seeds], [running[slot][2] for slot in going], seen)
        for seed, token in zip(seeds, found, strict=True):
            drawn[seed].append(token)
    for seed in range(12):
        alone = generate_tokens(made, state, [bos, seed % 3], model.block_size, samplings[seed % 4], Random(seed), bos)
        assert drawn[seed] == list(alone), f"seed {seed}"


@pytest.mark.parametrize("rung", [rung for rung in LADDER if rung not in FAST])
def test_every_engine_has_slots(rung: str) -> None:
    made = built(rung, LADDER[rung].dtypes[0], n_layer=1)
    sequences = Sequences(*made, 0)
    for prompt in ([1, 2, 3], [4]):
        sequences.admit(prompt)
    while sequences.waiting:
        sequences.prefill(2)
    sequences.step()
    assert sequences.compared >= 2


@pytest.mark.parametrize("rung", FAST)
def test_slots_are_bounded_and_used_again(rung: str) -> None:
    made, state, _ = built(rung, LADDER[rung].dtypes[0])
    slots = open_slots(made, state, 2)
    first, second = slots.admit([1]), slots.admit([2, 3])
    assert first != second
    with pytest.raises(ValueError, match="all 2 slots are in use"):
        slots.admit([4])
    slots.release(first)
    assert slots.admit([4]) == first
