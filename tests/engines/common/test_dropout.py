from __future__ import annotations

from itertools import product

import numpy as np

from microgpt.engines.common.dropout import key, mix, scales


def test_kept_numbers_make_up_for_the_dropped_ones() -> None:
    found = scales(0.25, 1, 2, 3, 4, 100, 200)
    assert set(found.ravel().tolist()) == {0.0, 1 / 0.75}
    # 20,000 draws: the share kept has a standard deviation of 0.003.
    assert abs((found > 0).mean() - 0.75) < 0.012
    assert (scales(0.0, 1, 2, 3, 4, 5, 6) == 1).all()


def test_every_seed_step_row_and_place_has_a_mask_of_its_own() -> None:
    masks = {scales(0.5, *where, 8, 8).tobytes() for where in product((0, 1, 2**40), range(3), range(3), range(3))}
    assert len(masks) == 81


def test_longer_row_begins_with_the_shorter_ones_mask() -> None:
    """Padding must not change what is dropped."""
    assert np.array_equal(scales(0.5, 1, 2, 3, 4, 9, 5)[:4], scales(0.5, 1, 2, 3, 4, 4, 5))


def test_hash_is_the_same_for_integers_and_arrays() -> None:
    points = [0, 1, 2, 12345, 2**31, 2**32 - 1]
    assert mix(np.array(points, dtype=np.uint64)).tolist() == [mix(x) for x in points]


def test_hash_never_changes() -> None:
    """Another mask would be another run: a model resumed by a later version must meet the same ones."""
    assert [mix(1), mix(2**32 - 1), key(42, 7, 1, 3)] == [1753845952, 1734902346, 2481819096]
