"""Prompts that are kept, and what of them others take."""

from __future__ import annotations

import numpy as np

from microgpt.engines.fused.prefixes import Prefixes


def text(*runs: tuple[int, int]) -> np.ndarray:
    """Tokens in runs of (token, count)."""
    return np.concatenate([np.full(count, token, np.int32) for token, count in runs])


def test_the_longest_common_beginning_is_found() -> None:
    kept = Prefixes[str](3, 64)
    assert kept.longest(text((1, 40))) == (0, None)
    assert kept.keep(text((1, 20), (2, 20)), "a") is None
    assert kept.keep(text((1, 30), (3, 5)), "b") is None
    assert kept.longest(text((1, 20), (2, 8))) == (28, "a")
    assert kept.longest(text((1, 64))) == (30, "b")
    assert kept.longest(text((1, 15), (4, 9))) == (0, None), "too short to be worth it"


def test_a_longer_prompt_takes_the_place_of_its_beginning() -> None:
    kept = Prefixes[str](2, 64)
    kept.keep(text((1, 20)), "a")
    assert kept.keep(text((1, 20), (2, 9)), "b") == "a"
    assert kept.keep(text((1, 20), (2, 4)), "c") == "c", "what is kept already is free"
    assert kept.longest(text((1, 20), (2, 30))) == (29, "b")


def test_nothing_is_left_of_a_prompt_that_made_room() -> None:
    kept = Prefixes[str](1, 64)
    kept.keep(text((1, 20), (2, 40)), "a")
    assert kept.keep(text((1, 18), (3, 2)), "b") == "a"
    assert kept.longest(text((1, 18), (3, 2), (2, 40))) == (20, "b"), "not the end of the one before"


def test_without_memory_nothing_is_kept() -> None:
    kept = Prefixes[str](0, 64)
    assert kept.keep(text((1, 20)), "a") == "a"
    assert kept.longest(text((1, 20))) == (0, None)
