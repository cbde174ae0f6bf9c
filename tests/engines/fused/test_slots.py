"""Sequences in lanes: prompts in pieces, shared beginnings, and the same bits as alone."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest

from microgpt.engines.fused import slots as slots_module
from microgpt.engines.ladder import LADDER
from microgpt.inference.slots import open_slots
from tests.inference.test_slots import Sequences, built

CASES: dict[str, dict[str, Any]] = {
    "one layer, learned": {"n_layer": 1, "n_embd": 32, "block_size": 70},
    "heads of 36 channels": {"n_embd": 72, "n_head": 2, "position": "rope", "block_size": 40},
    "everything": {"family": "nanochat", "n_embd": 64, "n_head": 4, "softcap": 3.0, "block_size": 50},
    "block of one": {"block_size": 1},
}


@pytest.mark.parametrize("dtype", LADDER["fused"].dtypes)
@pytest.mark.parametrize("case", CASES)
def test_in_lanes_a_sequence_does_not_depend_on_the_others(case: str, dtype: str) -> None:
    sequences = Sequences(*built("fused", dtype, **CASES[case]), 0)
    for _ in range(300):
        sequences.anything()
    assert sequences.compared > 30


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_a_large_step(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each sequence has the same bits."""
    monkeypatch.setattr(slots_module, "MIN_SHARED", 0)
    made, state, model = built("fused", "float32", **CASES["everything"])
    made.threads = threads
    sequences = Sequences(made, state, model, 0)
    for _ in range(200):
        sequences.anything()
    assert sequences.compared > 30
    assert sequences.slots.pool is not None
    assert len(sequences.slots.many) == threads


def test_a_step_does_without_further_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(self: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(slots_module, "MIN_SHARED", 0)
    monkeypatch.setattr(Thread, "start", no_more)
    made, state, model = built("fused", "float32", **CASES["everything"])
    made.threads = 2
    sequences = Sequences(made, state, model, 0)
    for _ in range(100):
        sequences.anything()
    assert sequences.compared > 10


@pytest.mark.parametrize("dtype", LADDER["fused"].dtypes)
@pytest.mark.parametrize("limit", [1, 2, 5, 8, 39, 99])
def test_a_prompt_in_pieces_has_the_logits_of_the_whole(dtype: str, limit: int) -> None:
    sequences = Sequences(*built("fused", dtype, n_embd=32, block_size=40), 0)
    for length in (1, 2, 3, 4, 9, 16, 17, 33, 40):
        sequences.admit(sequences.texts[0][:length])
        while sequences.waiting:
            sequences.prefill(limit)
        sequences.release(next(iter(sequences.caches)))
    assert sequences.compared == 9


def pieces(slots: Any, prompt: list[int]) -> int:
    """How many pieces of 8 tokens are computed for a prompt."""
    slot = slots.admit(prompt)
    count = next(i for i in range(1, 99) if slots.prefill(slot, 8) is not None)
    slots.release(slot)
    return count


def test_what_prompts_begin_with_is_computed_once() -> None:
    made, state, model = built("fused", "float32", block_size=64)
    slots = open_slots(made, state, 2)
    system, question, other = [i % model.vocab for i in range(32)], [3] * 8, [5] * 8
    assert pieces(slots, system + question) == 5
    assert pieces(slots, system + question) == 1, "only the last tokens"
    assert pieces(slots, system + other) == 1
    assert pieces(slots, system + question + other * 2) == 2
    assert pieces(slots, [7, *system]) == 4, "a prompt that begins otherwise"
    assert pieces(open_slots(made, state, 2, prefix_bytes=0), system + question) == 5


def test_prompts_admitted_together_compute_their_beginning_once() -> None:
    made, state, model = built("fused", "float32", block_size=64)
    slots = open_slots(made, state, 2)
    prompt = [i % model.vocab for i in range(32)]
    one, two = slots.admit(prompt), slots.admit(prompt)
    first, second = slots.prefill(one, 32), slots.prefill(two, 2)
    assert second is not None, "only the last tokens"
    assert (first == second).all()


def test_the_least_recently_used_prompt_makes_room() -> None:
    made, state, _ = built("fused", "float32", block_size=64)
    first, second, third = ([i] * 32 for i in range(3))
    slots = open_slots(made, state, 1, prefix_bytes=10 * made.cache_size)  # 4 bytes a number: two caches, not three
    assert [pieces(slots, prompt) for prompt in (first, second, first)] == [4, 4, 1]
    assert pieces(slots, third) == 4
    assert pieces(slots, first) == 1, "used after the second"
    assert pieces(slots, second) == 4, "dropped for the third"
